"""`hpo adapt`: the shop's own training of the encoder, and the search for how to do it."""
