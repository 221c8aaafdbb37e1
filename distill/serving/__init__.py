"""Serving: an export opened, its encoder run by torch or ONNX Runtime, catalogues and scenes."""
