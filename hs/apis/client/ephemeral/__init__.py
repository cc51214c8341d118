"""Presence, receipts and typing notifications."""
