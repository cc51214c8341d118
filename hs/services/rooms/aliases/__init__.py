"""Aliases of rooms, canonical aliases and entries in the room directory."""
