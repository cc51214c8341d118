"""The administration API at /_synapse/admin."""
