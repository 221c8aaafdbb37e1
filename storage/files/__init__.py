"""Files: checkpoints, exports and their folders, each visible whole or not at all."""
