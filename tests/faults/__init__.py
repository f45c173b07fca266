"""Tools that break things on purpose, and that know what must come out all the same."""
