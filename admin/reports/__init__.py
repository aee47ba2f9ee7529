"""What participants report, and what operators see of it."""
