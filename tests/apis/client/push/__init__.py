"""Tests of the endpoints of push notifications."""
