"""End-to-end tests of push and e-mail notifications."""
