"""Queries for /sync, and the connections of sliding sync."""
