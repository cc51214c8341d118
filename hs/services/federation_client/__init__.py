"""Requests to other servers: addresses, keys, signatures, backoff."""
