"""Episodes as tasks: what adapts to a support, and the losses of support and query."""
