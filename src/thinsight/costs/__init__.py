"""FLOPs, bytes, seconds, budgets."""
