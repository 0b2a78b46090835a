"""A method on a live model: hooks, masks, positions, caches, trace, layer selection."""
