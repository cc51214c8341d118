"""Tables of push rules, unread counts and pushers."""
