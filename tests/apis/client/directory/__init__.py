"""Tests of the endpoints of the room directory."""
