"""Finding messages by their words."""
