"""Security events about consents: what is told, to whom, in which form, and how a receiver checks it."""
