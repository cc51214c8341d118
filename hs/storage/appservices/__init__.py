"""Tables of what waits for application services."""
