"""Inputs that tests generate: hostile requests, damaged files, forked rooms."""
