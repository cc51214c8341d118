"""Sending e-mail and filling in templates."""
