"""What other servers ask for and send, and what this server sends to them."""
