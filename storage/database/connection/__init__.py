"""Connections to PostgreSQL: their settings, the environment they ignore, and what their faults mean."""
