"""The form that every labelled source's data takes: integer codes in NumPy arrays, one row for each text and scene.

`studies.classification.data.coding` builds `LabelledTexts` from a source's rows. The order of rows and names is fixed:
every draw of an episode relies on it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from studies.data.dataset import Ints


@dataclass(frozen=True)
class LabelledTexts:
    """Texts with the names of their classes, and texts without.

    A text has one label, and one row in each scene that it occurs in. The name of a class is a text too, so that models
    can read it; unless it is also the text of a row, it has none.

    Attributes:
        texts: (items,) distinct texts of rows and names of classes, ascending, in the form of `studies.text_form`.
        labels: Names of the classes, ascending; a class's code is its position.
        names: (classes,) code of the text that is the name of each class.
        groups: Names of the groups, ascending; () where the data have none.
        scenes: Names of the scenes, ascending; () where the data have none.
        text: (rows,) code of the text. Rows are sorted by (text, label, group, scene).
        label: (rows,) code of the class; -1 where the text has none.
        group: (rows,) code of the group; -1 where the row has none.
        scene: (rows,) code of the scene; -1 where the data have none.
        time: (rows,) UTC seconds; 0 where the data have none.
        rows_read: Rows of the source before any was dropped.
        dropped: Number of dropped rows, by reason.
        notes: Remarks on the data, as whole sentences.
        warnings: What is probably a fault of the data, as whole sentences.
        fingerprint: SHA-256 of the contents. Equal fingerprints give equal studies.
    """

    texts: tuple[str, ...]
    labels: tuple[str, ...]
    names: Ints
    groups: tuple[str, ...]
    scenes: tuple[str, ...]
    text: Ints
    label: Ints
    group: Ints
    scene: Ints
    time: Ints
    rows_read: int
    dropped: Mapping[str, int]
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    fingerprint: str = ""

    @property
    def distinct_texts(self) -> int:
        """Return the number of distinct texts of rows."""
        return len(np.unique(self.text))

    @property
    def size(self) -> str:
        """Return how much there is, in words."""
        labelled = int((self.label >= 0).sum())
        return (
            f"{self.distinct_texts:,} texts, {len(self.labels):,} classes, {labelled:,} labelled rows and "
            f"{len(self.label) - labelled:,} without a label"
        )

    def sealed(self) -> LabelledTexts:
        """Return the same data with its fingerprint."""
        digest = hashlib.sha256()
        for strings in (self.texts, self.labels, self.groups, self.scenes):
            digest.update("\x1f".join(strings).encode())
            digest.update(b"\x1e")
        for array in (self.names, self.text, self.label, self.group, self.scene, self.time):
            digest.update(np.ascontiguousarray(array, dtype=np.int64).tobytes())
        return replace(self, fingerprint=digest.hexdigest())


def keep_classes(data: LabelledTexts, codes: Ints, note: str) -> LabelledTexts:
    """Return the data with the labels of some classes only; the texts of all others stay, unlabelled.

    Args:
        data: All data.
        codes: Codes of the classes to keep.
        note: What the others are, such as "below min_rows"; the data's notes count them.
    """
    codes = np.sort(codes)
    left_out = len(data.labels) - len(codes)
    if left_out == 0:
        return data
    new_code = np.full(len(data.labels) + 1, -1)  # the last is that of rows without a label
    new_code[codes] = np.arange(len(codes))
    label = new_code[data.label]
    rows = int((label < 0).sum() - (data.label < 0).sum())
    said = f"{left_out:,} of {len(data.labels):,} classes {note}; used as unlabelled texts: {rows:,} rows."
    labels = tuple(data.labels[code] for code in codes)
    return replace(data, labels=labels, names=data.names[codes], label=label, notes=(*data.notes, said)).sealed()
