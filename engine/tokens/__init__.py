"""JWT access tokens (RFC 9068): claims, verification, key sets, memo."""
