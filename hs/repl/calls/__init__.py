"""Calls between the processes of one server: RPC over one connection for each caller and owner."""
