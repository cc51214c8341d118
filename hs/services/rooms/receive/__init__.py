"""Receiving events of other servers: checked, placed in the event graph, appended."""
