"""Account data and stored filters."""
