"""Push rules, what events do to users by them, and the counts of what is unread."""
