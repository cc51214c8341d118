"""End-to-end tests of several servers that federate over TLS."""
