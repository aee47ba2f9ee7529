"""The sandbox's certificate authority and certificate profiles."""
