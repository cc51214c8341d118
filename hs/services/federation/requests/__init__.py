"""The requests of the server-server API, a module per subject."""
