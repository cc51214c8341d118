"""Tests of the endpoints of rooms."""
