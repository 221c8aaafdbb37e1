"""Sources of interactions and items, each one file behind one function, and the `Dataset` they all return."""
