"""Which servers cannot be reached, and the keys of servers."""
