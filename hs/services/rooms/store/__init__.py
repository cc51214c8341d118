"""What the server knows of rooms: events, state, memberships, in memory and in the database."""
