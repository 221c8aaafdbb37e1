"""Helpers of benchmarks/many_workers.py."""
