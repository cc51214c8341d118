"""Devices, access and refresh tokens, and user-interactive authentication."""
