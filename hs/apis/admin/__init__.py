"""The admin API at /_synapse/admin."""
