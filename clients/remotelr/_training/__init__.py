"""One training on all its ranks, for every framework: the session on rank 0, and its decisions on the others."""
