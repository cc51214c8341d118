"""/sync, sliding sync, and the endpoints that /sync replaced."""
