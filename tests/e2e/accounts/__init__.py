"""End-to-end tests of accounts."""
