"""Room aliases, the room directory, the user directory and the search index."""
