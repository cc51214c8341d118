"""Queries of /sync, and the tables of sliding sync connections."""
