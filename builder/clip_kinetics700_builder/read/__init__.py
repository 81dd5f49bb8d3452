"""Room read."""
