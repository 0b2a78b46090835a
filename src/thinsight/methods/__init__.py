"""Published methods, one file a paper: stages, schedule and order together."""
