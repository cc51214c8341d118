"""Sending messages, state, redactions and delayed events."""
