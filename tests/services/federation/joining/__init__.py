"""Memberships across servers."""
