"""Logging in: passwords, tokens, JSON web tokens."""
