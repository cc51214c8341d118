"""What federation stores: what waits for other servers."""
