"""Reports and server notices."""
