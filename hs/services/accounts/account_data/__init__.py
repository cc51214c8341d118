"""Account data and filters of users."""
