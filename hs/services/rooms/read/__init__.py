"""Reading rooms for clients: history, state, relations, previews."""
