"""Room download."""
