"""What the health of a process depends on: a probe for each thing that may fail."""
