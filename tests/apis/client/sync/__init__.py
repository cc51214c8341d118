"""Tests of the endpoints of sync."""
