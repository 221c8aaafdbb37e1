"""The export: a student as one folder that other tools open, checked before it becomes visible."""
