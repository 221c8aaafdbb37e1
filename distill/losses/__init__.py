"""The losses that bring a student closer to its teachers, one file each.

Each is a function of one typed batch (`batches.py`) to a scalar. Its row in `studies/config/distill_losses.py` gives
its name, its batch, and the domain of its weight; `registry.py` sums them.
"""
