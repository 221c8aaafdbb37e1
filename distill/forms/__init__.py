"""How students are built: which vector of a text their head reads, and what the head starts from."""
