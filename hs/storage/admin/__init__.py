"""Tables of reports and server notices."""
