"""What engines need to know of the ledger, and how it travels."""
