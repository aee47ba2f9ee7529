"""The truth: an append-only, hash-chained ledger, and what carries it outwards."""
