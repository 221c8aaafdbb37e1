"""Classification, the second task: labels of texts, adapted to from a few labelled examples of each class."""
