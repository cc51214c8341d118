"""Reading homeserver.yaml: every key known, typed, and explained when it is wrong."""
