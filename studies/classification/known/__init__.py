"""Known classes: one set of classes, whose labelled rows are divided; ordinary fine-tuning of a text classifier."""
