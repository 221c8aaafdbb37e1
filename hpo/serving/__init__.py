"""Serves an export from files: what `hpo recommend` and `hpo classify` read, call and print."""
