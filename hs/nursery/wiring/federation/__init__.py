"""The wiring of federation, a module per subject."""
