"""The libraries that benchmarks compare with: an environment of their own, and our model in their inner loops."""
