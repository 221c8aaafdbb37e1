"""Sources of labelled texts."""
