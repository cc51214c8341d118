"""Appending this server's own events: from a draft to a committed event."""
