"""The leakage audit of known classes in scenes: what the splits share, and what is in their episodes."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

from storage.errors import quoted
from studies.classification.data.dataset import LabelledTexts
from studies.classification.episode import LabelledEpisode
from studies.classification.known.audit import audit_rows
from studies.classification.sampling.audit import RowsByText, audit_labelled_episodes
from studies.classification.scenes.split import SceneSplit
from studies.episodes.audit import Finding
from studies.episodes.split import SPLIT_NAMES, SplitName
from studies.progress import Progress
from studies.text_form import fold_name


def audit_scenes(data: LabelledTexts, split: SceneSplit) -> list[Finding]:
    """Return the findings on what the splits share."""
    texts, nearly, labels, _ = audit_rows(data, split)
    return [_scenes_shared(data, split), texts, _groups_shared(data, split), _times(data, split), nearly, labels]


def _scenes_shared(data: LabelledTexts, split: SceneSplit) -> Finding:
    check, split_of = "scenes in two splits", dict[str, str]()
    for name in SPLIT_NAMES:
        # "Store 1" and "store 1 " are one scene written twice.
        for scene in (data.scenes[code] for code in split.scenes[name]):
            if (other := split_of.setdefault(fold_name(scene), name)) != name:
                return Finding(check, "leak", f"scene {quoted(scene)} is in {name} and in {other}")
        if strange := set(data.scene[split.rows[name]].tolist()) - set(split.scenes[name].tolist()):
            return Finding(check, "leak", f"{name} has rows of {quoted(data.scenes[min(strange)])}, no scene of it")
    return Finding(check, "ok", f"{len(split_of)} scenes, each in one split")


def _groups_shared(data: LabelledTexts, split: SceneSplit) -> Finding:
    check = "groups in two splits"
    if not data.groups:
        return Finding(check, "ok", "the data name no groups")
    groups = {name: set(data.group[split.rows[name]].tolist()) - {-1} for name in SPLIT_NAMES}
    for one, other in combinations(SPLIT_NAMES, 2):
        if shared := groups[one] & groups[other]:
            first = quoted(data.groups[min(shared)])
            return Finding(check, "leak", f"{len(shared)} groups of {other} are in {one} too, the first {first}")
    return Finding(check, "ok", "no group of one split is in another")


def _times(data: LabelledTexts, split: SceneSplit) -> Finding:
    check = "rows from the time of a later split"
    if split.until is None:
        return Finding(check, "ok", "the data have no times")
    times = [data.time[split.rows[name]] for name in SPLIT_NAMES]
    for number, name in enumerate(SPLIT_NAMES[:2]):
        if times[number].max() >= times[number + 1].min():
            return Finding(check, "leak", f"{name} has rows from after the first of {SPLIT_NAMES[number + 1]}")
    return Finding(check, "ok", "every split ends before the next begins")


def audit_scene_episodes(
    data: LabelledTexts,
    split: SceneSplit,
    split_name: SplitName,
    episodes: Sequence[LabelledEpisode],
    progress: Progress | None = None,
) -> list[Finding]:
    """Return the findings on every episode of a split, checked against the rows; arguments as of the other audits."""
    rows = RowsByText(data)
    known = set(
        zip(data.text[split.rows[split_name]].tolist(), data.scene[split.rows[split_name]].tolist(), strict=True)
    )
    outside, early = [], []
    for episode in episodes:
        support, query = (episode.items[side].tolist() for side in (episode.support, episode.query))
        if any((text, episode.scene) not in known for text in support + query):
            outside.append(episode.name)
        if (
            split.until is not None
            and support
            and rows.times(support, episode.scene).max() >= rows.times(query, episode.scene).min()
        ):
            early.append(episode.name)
    found = {"rows outside their split": outside, "queries no later than their support": early}
    own = [
        Finding(check, "leak", f"{len(names)} of {len(episodes)} {split_name} episodes, the first {names[0]}")
        if names
        else Finding(check, "ok", f"none of {len(episodes)} {split_name} episodes")
        for check, names in found.items()
    ]
    return [*own, *audit_labelled_episodes(data, split, split_name, episodes, progress)]
