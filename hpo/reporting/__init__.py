"""Reports: what was found, with which intervals, and what it rests on, for HTML, Markdown and terminal."""
