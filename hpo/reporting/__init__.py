"""The page of a study: what was found, how sure it is, and what it rests on, for readers without a terminal."""
