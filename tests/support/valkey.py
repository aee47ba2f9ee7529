"""A real Redis-compatible server for the test session."""
