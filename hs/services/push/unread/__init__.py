"""Unread counts and the list of notifications."""
