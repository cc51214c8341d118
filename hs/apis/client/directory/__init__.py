"""Room directory, user directory, and message search."""
