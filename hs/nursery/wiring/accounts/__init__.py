"""The wiring of accounts and log-in, a module per subject."""
