"""Metrics, structured logs, the machine's clocks."""
