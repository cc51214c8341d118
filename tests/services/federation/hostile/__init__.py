"""What malicious servers do: each attack costs bounded work, and nothing is half-written."""
