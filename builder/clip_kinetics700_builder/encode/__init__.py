"""Room encode."""
