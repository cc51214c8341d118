"""State resolution: one room state out of the states of several forks."""
