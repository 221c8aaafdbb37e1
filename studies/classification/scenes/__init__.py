"""Known classes in scenes: one set of classes, adapted to in scenes that training has not seen."""
