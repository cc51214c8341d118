"""Purging what has been retained long enough, and cleaning up."""
