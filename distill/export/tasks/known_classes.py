"""The export of a classifier of known classes: what transformers' pipeline and the graphs themselves must answer."""

from __future__ import annotations

import torch
from torch import Tensor

from distill.export.card import CardWords
from distill.export.tasks.classification import ClassificationExport
from distill.student import Student
from studies.model.device import device, full_precision


class KnownClassesExport(ClassificationExport):
    """The export of a classifier that adapts to nothing."""

    # Probabilities that differ by less are the same.
    rounding = 1e-4

    def own_probabilities(self, student: Student, vectors: Tensor) -> Tensor:
        """Return the (R, N) probabilities that the student gives to texts, given by their (R, D) vectors."""
        with full_precision(), torch.no_grad():
            probabilities: Tensor = student.head.joint_logits(vectors.to(device())).softmax(-1)
            return probabilities.cpu()


_PIPELINE = """
With transformers alone, which gives the same probabilities:

```python
from transformers import pipeline

classify = pipeline("text-classification", "path/to/this/folder", truncation=True)
found = classify({texts}, top_k=None)
```
"""
CARD = CardWords(
    tag="text-classification",
    head="classifies texts among the classes that it was trained on",
    teachers="classifiers",
    use="Classifying texts",
    example="""\
from distill.inference import StudentClassifier

classifier = StudentClassifier.load("path/to/this/folder").trained()
labels = classifier.predict(["oat drink"])
probabilities = classifier.probabilities(["oat drink"])  # columns as in classifier.labels
""",
    answers="labels shared with the student",
    scored="all labelled texts of the test, which neither the search nor the distillation saw; averaged over classes, "
    "with 95 % bootstrap intervals over {scenes} classes or parts of them.",
    metrics={"accuracy": "accuracy", "f1": "macro-F1"},
    library="transformers",
    pipeline="text-classification",
    classifies=_PIPELINE.format(texts='["whole milk", "oat drink"]'),
    classifies_pairs=_PIPELINE.format(texts='[{"text": "milk", "text_pair": "oat drink"}]'),
)
