"""Tests of what other servers send."""
