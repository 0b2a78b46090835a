"""Data frames -> figures, tables, HTML."""
