"""Data: the sources of interactions and items, and the `Dataset` that each of them becomes."""
