"""Rooms: creating, joining, sending, reading, upgrading."""
