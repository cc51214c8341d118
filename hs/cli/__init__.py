"""The command line: thin commands over settings and nursery."""
