"""Telling clients what happened: /sync, its sections, and who is woken by what."""
