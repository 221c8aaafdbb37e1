"""Classifies with `StudentClassifier` in a fresh process: `python served_probabilities.py EXPORT REQUEST.json OUT`.

The counterpart of `distill/export/parity.py`, with our own library; `distill/export/tasks/classification.py` runs it.
The request holds `episodes`; the output is a safetensors file with the (Q, N) probabilities of each, by its number.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from safetensors.torch import save_file

from distill.inference import StudentClassifier


def main(export: Path, request: Path, out: Path) -> None:
    """Write the probabilities that a request asks for."""
    wanted = json.loads(request.read_text(encoding="utf-8"))
    student = StudentClassifier.load(export)
    found = {}
    for number, episode in enumerate(wanted["episodes"]):
        support = [(text, label) for text, label in episode["support"]]
        classifier = student.adapt(support) if support else student.trained()
        columns = [classifier.labels.index(label) for label in episode["labels"]]
        found[str(number)] = classifier.probabilities(episode["texts"])[:, columns].contiguous()
    save_file(found, out)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
