"""Users: registration, sessions, devices, profiles and account data."""
