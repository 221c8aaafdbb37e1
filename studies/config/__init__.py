"""The study file: its sections, the search space, and the values one trial trains with."""
