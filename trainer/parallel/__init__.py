"""More than one process, and batches that do not fit into memory at once."""
