"""End-to-end tests of encryption with real clients."""
