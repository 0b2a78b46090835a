"""Files in conf/ -> checked values."""
