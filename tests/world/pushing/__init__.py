"""Pushes and the guard as a world of their own: signed events on bad ways to EDPs that share by them, from a seed.

`python -m tests.world.pushing --seeds N` plays many, `--seed S` one, with its story. Decision 0021 says what it shows.
"""
