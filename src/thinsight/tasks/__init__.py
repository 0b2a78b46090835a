"""Questions, benchmarks, and how answers are scored."""
