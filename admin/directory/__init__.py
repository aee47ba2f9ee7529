"""Participants of the ecosystem: who may call, with which certificate."""
