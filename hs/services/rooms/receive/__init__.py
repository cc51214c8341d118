"""Receive events of other servers: check them, authorize them, append them to rooms."""
