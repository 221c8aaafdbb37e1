"""The systems of `benchmarks/classification.py`, ours and the peers, and the records of what they do."""
