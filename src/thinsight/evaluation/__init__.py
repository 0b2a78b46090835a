"""One run, resumable, with its protocol card."""
