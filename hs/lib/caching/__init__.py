"""Caches: LRU with bounded weight, loading on demand, and joining of equal calls."""
