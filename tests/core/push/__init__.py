"""Tests of push rules."""
