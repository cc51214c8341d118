"""Room aliases, the published room directory and the user directory."""
