"""Room system."""
