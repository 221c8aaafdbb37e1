"""`hpo data check`: what is in a study's data, what is wrong with it, and whether anything leaks."""
