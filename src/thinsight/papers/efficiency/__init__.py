"""The page on efficiency."""
