"""How a node is laid out in processes."""
