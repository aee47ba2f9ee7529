"""Granting, reading, renewing and revoking consents."""
