"""Tests of the configuration dialect."""
