"""Bringing signed events to those that receive them: push, and what poll is served from."""
