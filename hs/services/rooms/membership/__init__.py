"""Joining, leaving, inviting, knocking, kicking and banning, by users and by the server."""
