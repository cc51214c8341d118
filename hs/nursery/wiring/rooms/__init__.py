"""The wiring of rooms and what users do in them, a module per subject."""
