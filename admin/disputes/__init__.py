"""Disputes: by when an ATP answers one."""
