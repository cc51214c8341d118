"""End-to-end tests of hostile requests and content."""
