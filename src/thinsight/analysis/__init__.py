"""Data frames and statistics over runs."""
