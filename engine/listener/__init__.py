"""Bytes to questions, answers to bytes: HTTP/1.1 over TLS with client certificates."""
