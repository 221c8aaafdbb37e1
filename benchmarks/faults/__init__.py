"""Helpers of benchmarks/chaos.py."""
