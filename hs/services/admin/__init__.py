"""What concerns those who run the server."""
