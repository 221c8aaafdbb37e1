"""What the students of each task answer."""
