"""Room assemble."""
