"""What an export has of its study's task: one module for each, and the scripts that serve it in a fresh process."""
