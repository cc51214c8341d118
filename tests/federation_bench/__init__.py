"""Benchmarks of federation beside Synapse: `python -m tests.federation_bench --help`."""
