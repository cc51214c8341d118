"""Devices and their access tokens; user-interactive authentication."""
