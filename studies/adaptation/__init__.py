"""The shop's own training of the encoder: a stage before the search, done once and shared by all trials and workers."""
