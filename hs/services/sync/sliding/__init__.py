"""Simplified sliding sync (MSC4186): windows over a user's rooms, told as they change."""
