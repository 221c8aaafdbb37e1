"""The verbs that serve an export, from files."""
