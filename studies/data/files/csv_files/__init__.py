"""Reads delimited files: CSV and RecBole."""
