"""The search: the trial queue, ASHA rules and pruner, and one trial's run."""
