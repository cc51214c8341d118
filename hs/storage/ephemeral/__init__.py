"""Presence, receipts and typing."""
