"""Renderers of blocks: terminal, HTML, Markdown."""
