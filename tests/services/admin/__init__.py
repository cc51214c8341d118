"""Tests of services for administrators."""
