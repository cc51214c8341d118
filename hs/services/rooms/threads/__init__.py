"""Subscriptions to threads."""
