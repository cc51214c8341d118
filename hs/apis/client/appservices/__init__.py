"""What application services ask, and third-party networks."""
