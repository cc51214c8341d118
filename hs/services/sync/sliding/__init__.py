"""Simplified sliding sync (MSC4186): ranges of a user's room lists, and their changes."""
