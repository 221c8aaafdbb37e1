"""Status: a study at one moment, read from the database and shown."""
