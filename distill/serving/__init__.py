"""Serves an export: loads it, runs its encoder in torch or ONNX Runtime, adapts to scenes of a catalogue."""
