"""The vocabulary of consents: states, records, comparison. Pure."""
