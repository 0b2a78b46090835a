"""Checkpoint -> model, and where its parts are."""
