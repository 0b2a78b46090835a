"""Notebooks and the DVC plan."""
