"""Endpoints of the server-server API."""
