"""Finding rooms, users and messages."""
