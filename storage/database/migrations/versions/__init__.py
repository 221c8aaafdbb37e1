"""One file per schema change, numbered; a released file is never edited."""
