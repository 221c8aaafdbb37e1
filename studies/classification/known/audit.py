"""The leakage audit of known classes: what the splits of rows share, and what is in their batches."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np

from storage.errors import quoted
from studies.classification.data.dataset import LabelledTexts
from studies.classification.episode import LabelledEpisode
from studies.classification.known.row_split import RowSplit
from studies.classification.sampling.audit import other_labels
from studies.episodes.audit import Finding
from studies.episodes.split import SPLIT_NAMES, SplitName
from studies.text_form import fold_name


def audit_rows(data: LabelledTexts, split: RowSplit) -> list[Finding]:
    """Return the findings on what the splits share."""
    return [_texts_shared(data, split), _nearly_equal(data, split), other_labels(data), _groups_shared(data, split)]


def _texts_shared(data: LabelledTexts, split: RowSplit) -> Finding:
    check = "texts in two splits"
    texts = {name: set(data.text[split.rows[name]].tolist()) for name in SPLIT_NAMES}
    for one, other in combinations(SPLIT_NAMES, 2):
        if shared := texts[one] & texts[other]:
            first = quoted(data.texts[min(shared)])
            return Finding(check, "leak", f"{len(shared)} texts of {other} are in {one} too, the first {first}")
    return Finding(check, "ok", "no text of one split is in another")


def _nearly_equal(data: LabelledTexts, split: RowSplit) -> Finding:
    check = "test texts nearly equal to a training text"
    known = {fold_name(data.texts[text]) for text in data.text[split.rows["train"]].tolist()}
    held = data.text[split.rows["test"]].tolist()
    count = sum(fold_name(data.texts[text]) in known for text in held)
    if not count:
        return Finding(check, "ok", "no text of the test differs from one by letter case and spaces only")
    detail = f"{count / len(held):.1%} of the texts of the test differ from one by letter case and spaces only"
    return Finding(check, "note", f"{detail}; write texts in one way")


def _groups_shared(data: LabelledTexts, split: RowSplit) -> Finding:
    check = "held-out groups seen in training"
    if not data.groups:
        return Finding(check, "ok", "the data name no groups")
    groups = {name: np.setdiff1d(data.group[split.rows[name]], [-1]) for name in ("train", "test")}
    shared = np.isin(groups["test"], groups["train"])
    if not shared.any():
        return Finding(check, "ok", "no group of the test has a text in training")
    return Finding(check, "note", f"{shared.mean():.0%} of the groups of the test have texts in training")


def audit_batches(
    data: LabelledTexts, split: RowSplit, split_name: SplitName, batches: Sequence[LabelledEpisode]
) -> list[Finding]:
    """Return the findings on batches, checked against the rows: every text is of the split, under its own label."""
    check = "texts outside their split, or under other labels"
    rows = split.rows[split_name]
    label = dict(zip(data.text[rows].tolist(), data.label[rows].tolist(), strict=True))
    for batch in batches:
        texts, codes = batch.items[batch.query].tolist(), batch.classes[batch.query_labels].tolist()
        if any(label.get(text) != code for text, code in zip(texts, codes, strict=True)):
            return [Finding(check, "leak", f"{split_name}, the first {batch.name}")]
    return [Finding(check, "ok", f"none of {len(batches)} {split_name} batches")]
