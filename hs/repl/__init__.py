"""Replication between processes: streams carry changes, RPC calls the owner of something."""
