"""A study as optuna-dashboard shows it: the server, and the note and plots on the study's page."""
