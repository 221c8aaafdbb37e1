"""The pruner's rules: which trials are pruned at a rung, and which pruned ones are promoted later."""
