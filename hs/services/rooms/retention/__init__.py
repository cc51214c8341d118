"""Purging of old messages and forgotten rooms, and cleanup."""
