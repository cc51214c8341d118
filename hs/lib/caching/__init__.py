"""Caches: bounded, loading, and shared loading."""
