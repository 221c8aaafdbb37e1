"""Persistent state: PostgreSQL, checkpoints and artifacts. It imports none of our other packages."""
