"""Evaluation: metrics, intervals, baselines, and how any system is scored on episodes."""
