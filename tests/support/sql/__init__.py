"""Databases for tests, and what their statements cost."""
