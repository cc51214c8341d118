"""Names of rooms, and lists of rooms and users."""
