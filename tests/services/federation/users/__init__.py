"""Tests of users of other servers."""
