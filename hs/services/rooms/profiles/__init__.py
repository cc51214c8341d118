"""Profiles of users in their member events."""
