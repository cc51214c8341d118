"""Benchmark of a split server beside one process: `python -m tests.workers_bench --help`."""
