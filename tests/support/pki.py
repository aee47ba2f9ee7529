"""Certificates of a made-up authority."""
