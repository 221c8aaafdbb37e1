"""The classifier, and its episodes as tasks of the learners."""
