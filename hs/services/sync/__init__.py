"""The `/sync` service, its sections, and the notifier that wakes waiting requests."""
