"""A deterministic simulation of federation; see `__main__` for how to run one seed."""
