"""The command line: thin commands on top of settings and nursery."""
