"""Tests of loading and checking the configuration."""
