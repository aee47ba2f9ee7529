"""A real PostgreSQL server for the test session."""
