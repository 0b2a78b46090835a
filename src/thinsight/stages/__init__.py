"""The three stages of a reduction: filter, correlate, compress."""
