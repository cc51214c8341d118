"""Servers and clients that tests start or talk to: databases, gateways, our own processes."""
