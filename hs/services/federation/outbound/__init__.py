"""What this server sends to other servers."""
