"""User profiles: storage, changes, visibility."""
