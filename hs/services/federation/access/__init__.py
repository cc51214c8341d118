"""Which servers may ask about a room, and which to ask."""
