"""Push rules of users."""
