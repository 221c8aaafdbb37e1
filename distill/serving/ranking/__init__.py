"""Serves a recommender: a catalogue of embedded items, and scenes that are adapted from it."""
