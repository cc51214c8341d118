"""State resolution: the algorithms that resolve the states of several forks into one."""
