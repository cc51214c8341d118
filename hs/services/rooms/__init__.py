"""Rooms: appending events, their state, reading them back."""
