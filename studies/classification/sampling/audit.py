"""The leakage audit of classification: searches data and episodes for leaks that would inflate a recall.

It reads the rows themselves and uses nothing that the sampler derived. `hpo data check` shows its findings. Every study
runs it on the data and on each split's episodes before it uses them, and stops where something leaks.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from itertools import combinations

import numpy as np
import numpy.typing as npt

from storage.errors import quoted
from studies.classification.data.dataset import LabelledTexts
from studies.classification.episode import LabelledEpisode
from studies.classification.sampling.split import ClassSplit
from studies.data.dataset import Ints
from studies.episodes.audit import Finding
from studies.episodes.split import SPLIT_NAMES, SplitName
from studies.progress import Progress
from studies.text_form import fold_name

Bools = npt.NDArray[np.bool_]


def audit_labelled(data: LabelledTexts, split: ClassSplit) -> list[Finding]:
    """Return the findings that need no episodes: on classes and texts, and what held-out ones share with training."""
    return [_classes_shared(data, split), _texts_shared(data, split), other_labels(data), _groups_shared(data, split)]


def _classes_shared(data: LabelledTexts, split: ClassSplit) -> Finding:
    check = "classes shared between splits"
    split_of: dict[str, str] = {}
    for split_name in SPLIT_NAMES:
        for code in split.classes[split_name]:
            label = data.labels[code]
            # "Tea" and "tea " are one class written twice.
            if (other := split_of.setdefault(fold_name(label), split_name)) != split_name:
                return Finding(check, "leak", f"class {quoted(label)} is in {split_name} and in {other}")
    return Finding(check, "ok", f"{len(split_of)} classes, each in one split")


def _texts_shared(data: LabelledTexts, split: ClassSplit) -> Finding:
    """Find texts of a split's classes that are texts of another split's classes too."""
    check = "texts in two splits"
    texts = {name: set(data.text[np.isin(data.label, split.classes[name])].tolist()) for name in SPLIT_NAMES}
    for one, other in combinations(SPLIT_NAMES, 2):
        if shared := texts[one] & texts[other]:
            first = quoted(data.texts[min(shared)])
            return Finding(check, "leak", f"{len(shared)} texts of {other} are in {one} too, the first {first}")
    return Finding(check, "ok", "no text of one split's classes is in another's")


def other_labels(data: LabelledTexts) -> Finding:
    """Find texts that differ by letter case and spaces only, which most encoders read alike, under several labels."""
    check = "equal texts with other labels"
    labels: dict[str, set[int]] = defaultdict(set)
    rows = np.flatnonzero(data.label >= 0).tolist()
    folded = [fold_name(data.texts[text]) for text in data.text[rows].tolist()]
    for text, label in zip(folded, data.label[rows].tolist(), strict=True):
        labels[text].add(label)
    several = {text for text, found in labels.items() if len(found) > 1}
    if not several:
        return Finding(check, "ok", "no two texts that differ by letter case and spaces only have different labels")
    count = sum(text in several for text in folded)
    names = " and ".join(quoted(data.labels[code]) for code in sorted(labels[min(several)])[:3])
    detail = f"{count} of {len(rows)} labelled texts equal one of another class but for letter case and spaces"
    return Finding(check, "note", f"{detail}, such as {quoted(min(several))} under {names}")


def _groups_shared(data: LabelledTexts, split: ClassSplit) -> Finding:
    check = "held-out groups seen in training"
    if not data.groups:
        return Finding(check, "ok", "the data name no groups")
    held, seen = (np.isin(data.label, split.classes[name]) for name in ("test", "train"))
    groups = np.unique(data.group[held & (data.group >= 0)])
    shared = np.isin(groups, data.group[seen])
    if not shared.any():
        return Finding(check, "ok", "no group of a test class has a text of a training class")
    return Finding(check, "note", f"{shared.mean():.0%} of the groups of test classes have texts of training classes")


def audit_labelled_episodes(
    data: LabelledTexts,
    split: ClassSplit,
    split_name: SplitName,
    episodes: Sequence[LabelledEpisode],
    progress: Progress | None = None,
) -> list[Finding]:
    """Return the findings on every episode of a split, checked against the rows.

    Args:
        data: The texts and their labels.
        split: Split of the classes.
        split_name: The split of the episodes.
        episodes: All episodes of that split.
        progress: Called with (episodes checked, episodes in all).
    """
    rows, own = RowsByText(data), set(split.classes[split_name].tolist())
    problems: dict[str, list[str]] = {name: [] for name in _CHECKS}
    nearly = 0
    for number, episode in enumerate(episodes, start=1):
        sides = [episode.items[side].tolist() for side in (episode.support, episode.query)]
        checks = (
            set(episode.classes.tolist()) <= own,
            rows.have_their_labels(episode),
            not len(episode.names)
            or bool((data.names[episode.classes.cpu()] == episode.items[episode.names].cpu().numpy()).all()),
            not set(sides[0]) & set(sides[1]),
            not rows.groups(sides[0], episode.scene) & rows.groups(sides[1], episode.scene),
        )
        for check, passed in zip(_CHECKS, checks, strict=True):
            if not passed:
                problems[check].append(episode.name)
        known = {fold_name(data.texts[text]) for text in sides[0]}
        nearly += sum(fold_name(data.texts[text]) in known for text in sides[1])
        if progress is not None:
            progress(number, len(episodes))
    findings = [_finding(check, found, split_name, len(episodes)) for check, found in problems.items()]
    return [*findings, _nearly_equal(nearly, sum(len(episode.query) for episode in episodes), split_name)]


_CHECKS = (
    "classes outside their split",
    "labels or scenes that the rows do not have",
    "names of other classes",
    "texts on both sides of an episode",
    "groups on both sides of an episode",
)


def _finding(check: str, found: Sequence[str], split_name: SplitName, total: int) -> Finding:
    if found:
        return Finding(check, "leak", f"{len(found)} of {total} {split_name} episodes, the first {found[0]}")
    return Finding(check, "ok", f"none of {total} {split_name} episodes")


def _nearly_equal(count: int, queries: int, split_name: SplitName) -> Finding:
    check = "queries nearly equal to a text of the support"
    if not count:
        return Finding(check, "ok", f"no query of {split_name} differs from one by letter case and spaces only")
    detail = f"{count / queries:.1%} of the queries of {split_name} differ from one by letter case and spaces only"
    return Finding(check, "note", f"{detail}; write texts in one way")


class RowsByText:
    """The rows by text and scene."""

    def __init__(self, data: LabelledTexts) -> None:
        self._data = data
        keys = self._keys(data.text, data.scene)
        self._order = np.argsort(keys, kind="stable")
        self._sorted = keys[self._order]

    def have_their_labels(self, episode: LabelledEpisode) -> bool:
        """Return whether every text is one of its class, in the scene of the episode."""
        for places, labels in ((episode.support, episode.support_labels), (episode.query, episode.query_labels)):
            rows, known = self._of(episode.items[places].tolist(), episode.scene)
            if not known.all() or (self._data.label[rows] != episode.classes[labels].cpu().numpy()).any():
                return False
        return True

    def groups(self, texts: Sequence[int], scene: int) -> set[int]:
        """Return the groups of some texts of a scene; a text without a group has none."""
        rows, known = self._of(texts, scene)
        return set(self._data.group[rows[known]].tolist()) - {-1}

    def times(self, texts: Sequence[int], scene: int) -> Ints:
        """Return the time of each of some texts of a scene."""
        rows, _ = self._of(texts, scene)
        return self._data.time[rows]

    def _of(self, texts: Sequence[int], scene: int) -> tuple[Ints, Bools]:
        """Return the row of each text in a scene, and whether there is one."""
        wanted = self._keys(np.array(texts, dtype=np.int64), scene)
        places = np.searchsorted(self._sorted, wanted).clip(max=len(self._sorted) - 1)
        return self._order[places], self._sorted[places] == wanted

    def _keys(self, texts: Ints, scene: Ints | int) -> Ints:
        keys: Ints = texts * (len(self._data.scenes) + 1) + scene + 1
        return keys
