"""Serves an export over HTTP: `hpo serve`."""
