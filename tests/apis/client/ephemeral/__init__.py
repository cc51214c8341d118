"""Tests of the endpoints of ephemeral events."""
