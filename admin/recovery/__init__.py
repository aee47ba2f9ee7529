"""After a restore with a gap: who told what, what is in doubt, and when the ledger may go live."""
