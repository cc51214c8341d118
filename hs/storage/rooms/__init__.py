"""Tables of rooms: events, state, relations, memberships."""
