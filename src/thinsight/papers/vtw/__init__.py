"""The page on VTW."""
