"""Receiving events of other servers: checked, authorized, appended to rooms."""
