"""Tests of the endpoints of accounts."""
