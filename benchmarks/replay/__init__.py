"""Replays learning curves under any pruner as a simulated clock: what `benchmarks/pruning.py` compares."""
