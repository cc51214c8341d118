"""Endpoints for other servers."""
