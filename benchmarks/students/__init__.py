"""Helpers of benchmarks/student.py."""
