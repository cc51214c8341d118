"""Reading rooms for clients: history, state, relations, visibility, the JSON of events."""
