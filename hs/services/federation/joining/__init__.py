"""Rooms of other servers: finding, joining, knocking, leaving, inviting."""
