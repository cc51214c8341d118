"""Starting, running and ending a process."""
