"""Room clips."""
