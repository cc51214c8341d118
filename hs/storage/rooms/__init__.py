"""Rooms: events, state, relations and memberships."""
