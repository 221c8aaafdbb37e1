"""Distils a study's winning teachers into a DistilBERT student, exports it, and serves the export."""
