"""Metrics and baselines of classification."""
