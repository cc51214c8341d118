"""Pushers: sending notifications over HTTP and by e-mail."""
