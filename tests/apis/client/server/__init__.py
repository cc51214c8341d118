"""Tests of the endpoints of server information."""
