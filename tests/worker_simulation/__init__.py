"""A deterministic simulation of the processes of one server; see `__main__` for how to run it."""
