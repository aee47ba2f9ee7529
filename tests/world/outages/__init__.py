"""Outages, one test for each row of docs/operators/outages.md. A package, so that its installations end with it."""
