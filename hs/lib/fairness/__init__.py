"""What keeps one user from taking everything that all share: shares, turns, and left slots."""
