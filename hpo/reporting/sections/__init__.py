"""Sections of a report, each made of blocks from the study's document."""
