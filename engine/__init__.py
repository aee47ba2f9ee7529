"""The read side: answers EDPs from a node-local replica. Never touches the ledger's database."""
