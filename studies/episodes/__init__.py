"""Episodes: the split by scene and time, openings, support and query, and the leakage audit."""
