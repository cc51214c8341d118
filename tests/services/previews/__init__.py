"""Tests of URL previews."""
