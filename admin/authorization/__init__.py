"""Issuing access tokens."""
