"""Full-text search of messages, room names and topics."""
