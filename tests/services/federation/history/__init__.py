"""Tests of history between servers."""
