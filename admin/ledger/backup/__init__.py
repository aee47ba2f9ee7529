"""Backups of the ledger's database: sealed segments in another place, and a new incarnation made from them."""
