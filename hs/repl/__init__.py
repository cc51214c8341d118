"""Telling other processes what changed (streams) and asking the one that owns it (rpc)."""
