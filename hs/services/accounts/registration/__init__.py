"""Creating accounts."""
