"""The write side: keeps the ledger, issues tokens and certificates, serves the APIs."""
