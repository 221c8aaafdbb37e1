"""Splits of classes, and the episodes drawn from them."""
