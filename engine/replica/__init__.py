"""The node's own copy of the feed, in LMDB: one writer, many readers."""
