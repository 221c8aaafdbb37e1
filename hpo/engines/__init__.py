"""Engines start the workers of a launch and wait for them; each is one file with one `run`."""
