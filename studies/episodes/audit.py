"""The leakage audit: searches data and episodes for leaks that would inflate a recall.

It reads the log itself and uses nothing that the sampler derived. `hpo data check` shows its findings. Every study runs
it on the data and on each split's episodes before it uses them, and stops where something leaks.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
import numpy.typing as npt

from storage.errors import InputError
from studies.config.protocol_section import RankingProtocol
from studies.data.dataset import Dataset, Ints
from studies.episodes.elsewhere import HALF_LIVES
from studies.episodes.episode import Episode
from studies.episodes.split import DAY, SPLIT_NAMES, Split, SplitName
from studies.progress import Progress
from studies.text_form import fold_name

# The same user can take the same item in two scenes at once by chance, oftener where times are whole days: a coupon
# that two campaigns offer. A larger fraction, or most of one scene, is a copy.
MAX_DUPLICATES = 0.01
MAX_DUPLICATES_IN_DAYS = 0.1
MAX_DUPLICATES_OF_SCENE = 0.5


@dataclass(frozen=True)
class Finding:
    """The outcome of one check.

    Attributes:
        check: Name of the check.
        status: "leak" if it invalidates every recall, "note" for a remark, "ok" if nothing was found.
        detail: What was found, with numbers.
    """

    check: str
    status: Literal["ok", "note", "leak"]
    detail: str


def refuse_leaks(findings: Iterable[Finding]) -> None:
    """Stop a study whose data or episodes leak.

    Raises:
        InputError: A finding is a leak; the message names its check and the first case.
    """
    for finding in findings:
        if finding.status == "leak":
            raise InputError(
                f"leakage audit: {finding.check}: {finding.detail}; no recall on these data would mean anything: "
                "mend the data, then hpo data check STUDY.toml shows the whole audit"
            )


def audit_data(data: Dataset, split: Split) -> list[Finding]:
    """Return the findings that need no episodes: on scenes, periods, and what held-out scenes share with training."""
    return [_scenes_shared(data, split), _periods(data, split), _events_twice(data, split), _texts_seen(data, split)]


def _scenes_shared(data: Dataset, split: Split) -> Finding:
    check = "scenes shared between splits"
    split_of: dict[str, str] = {}
    for split_name in SPLIT_NAMES:
        for code in split.scenes[split_name]:
            scene = data.scenes[code]
            # "Tea" and "tea " are one scene written twice.
            if (other := split_of.setdefault(fold_name(scene), split_name)) != split_name:
                return Finding(check, "leak", f"scene {scene!r} is in meta-{split_name} and meta-{other}")
    return Finding(check, "ok", f"{len(split_of)} scenes, each in one split")


def _periods(data: Dataset, split: Split) -> Finding:
    check = "periods in order"
    for earlier, later in pairwise(SPLIT_NAMES):
        if split.period[earlier][1] > split.period[later][0]:
            return Finding(check, "leak", f"the {later} period begins before the {earlier} period ends")
    if split.by == "opening":
        for split_name in SPLIT_NAMES:
            rows = np.flatnonzero(np.isin(data.scene, split.scenes[split_name]))
            if len(rows) and data.time[rows[0]] < split.period[split_name][0]:
                scene = data.scenes[data.scene[rows[0]]]
                return Finding(check, "leak", f"scene {scene!r} starts before the {split_name} period")
    return Finding(check, "ok", "training ends before validation begins, validation before test")


def _events_twice(data: Dataset, split: Split) -> Finding:
    """Find the same user taking the same item at the same second in scenes of different splits."""
    check = "interactions in two splits"
    split_of_scene = np.zeros(len(data.scenes), dtype=np.int64)
    for code, split_name in enumerate(SPLIT_NAMES):
        split_of_scene[split.scenes[split_name]] = code
    splits = split_of_scene[data.scene]
    # Rows are sorted by time, user, item and scene: copies are neighbours.
    same = (np.diff(data.time) == 0) & (np.diff(data.user) == 0) & (np.diff(data.item) == 0) & (np.diff(splits) != 0)
    pairs = np.sort(np.stack([splits[:-1][same], splits[1:][same]]), axis=0)
    limit = MAX_DUPLICATES if (data.time % DAY).any() else MAX_DUPLICATES_IN_DAYS
    copied = _most_copied(data, same)
    worst = Finding(check, "ok", "no user takes the same item at the same second in scenes of two splits")
    for earlier, later in ((0, 1), (0, 2), (1, 2)):
        twice = int(((pairs[0] == earlier) & (pairs[1] == later)).sum()) / max(1, int((splits == later).sum()))
        if twice > 0 and worst.status != "leak":
            late, early = SPLIT_NAMES[later], SPLIT_NAMES[earlier]
            detail = f"{twice:.1%} of the meta-{late} interactions are in meta-{early} scenes too"
            worst = Finding(check, "leak" if twice > limit or copied else "note", detail + copied)
    return worst


def _most_copied(data: Dataset, same: npt.NDArray[np.bool_]) -> str:
    """Return words on the scene of which most is in other splits too, or "" where there is none.

    Args:
        data: The shop.
        same: (interactions - 1,) whether a row is copied by the next one.
    """
    copies = np.zeros(len(data.time), dtype=bool)
    copies[:-1] |= same
    copies[1:] |= same
    counts = np.bincount(data.scene, minlength=len(data.scenes))
    shares = np.bincount(data.scene[copies], minlength=len(data.scenes)) / np.maximum(counts, 1)
    most = int(shares.argmax())
    return f", {shares[most]:.0%} of scene {data.scenes[most]!r}" if shares[most] > MAX_DUPLICATES_OF_SCENE else ""


def _texts_seen(data: Dataset, split: Split) -> Finding:
    check = "held-out texts seen in training"
    train, test = data.items_in(split.scenes["train"]), data.items_in(split.scenes["test"])
    shared = np.isin(test, train).mean()
    if shared == 0:
        return Finding(check, "ok", "no text of a meta-test scene is in a meta-training scene")
    return Finding(check, "note", f"{shared:.0%} of the meta-test scenes' texts are in meta-training scenes too")


def audit_episodes(
    data: Dataset,
    split: Split,
    protocol: RankingProtocol,
    split_name: SplitName,
    episodes: Sequence[Episode],
    progress: Progress | None = None,
) -> list[Finding]:
    """Return the findings on every episode of a split, checked against the log.

    Args:
        data: The shop.
        split: Split of its scenes.
        protocol: Definition of an episode.
        split_name: The split of the episodes.
        episodes: All episodes of that split.
        progress: Called with (episodes checked, episodes in all).
    """
    log = _Log(data, split, protocol)
    problems: dict[str, list[str]] = {name: [] for name in _EPISODE_CHECKS}
    for number, episode in enumerate(episodes, start=1):
        where = f"scene {data.scenes[episode.scene]!r} opened at {episode.opened}"
        if episode.scene not in split.scenes[split_name] or not log.opens_within(episode, split.period[split_name]):
            problems["episodes outside their split"].append(where)
        if not log.support_is_first(episode):
            problems["support not the first interactions"].append(where)
        if not log.query_is_later(episode, split.period[split_name][1]):
            problems["support later than query"].append(where)
        if not log.histories_are_past(episode):
            problems["history reaching past an interaction"].append(where)
        if not log.popularity_is_past(episode):
            problems["popularity reaching past an opening"].append(where)
        if progress is not None:
            progress(number, len(episodes))
    findings = [_episode_finding(check, found, split_name, len(episodes)) for check, found in problems.items()]
    return [*findings, _common_items(episodes, protocol, split_name)]


_EPISODE_CHECKS = (
    "episodes outside their split",
    "support not the first interactions",
    "support later than query",
    "history reaching past an interaction",
    "popularity reaching past an opening",
)


def _episode_finding(check: str, found: list[str], split_name: SplitName, total: int) -> Finding:
    if found:
        return Finding(check, "leak", f"{len(found)} of {total} meta-{split_name} episodes, the first in {found[0]}")
    return Finding(check, "ok", f"none of {total} meta-{split_name} episodes")


def _common_items(episodes: Sequence[Episode], protocol: RankingProtocol, split_name: SplitName) -> Finding:
    check = "items common to support and query"
    answers = sum(int(episode.relevant.sum()) for episode in episodes)
    common = sum(int(episode.relevant[:, list(set(episode.support.tolist()))].sum()) for episode in episodes)
    again = sum(int((episode.relevant & episode.excluded).sum()) for episode in episodes)
    if again:
        return Finding(check, "leak", f"{again} answers of meta-{split_name} are items that their user had before")
    detail = f"{common / max(1, answers):.0%} of the answers of meta-{split_name} are items of the support"
    if protocol.repeat == "allow":
        detail += ", which new-item recall leaves out"
    return Finding(check, "note" if common else "ok", detail)


class _Log:
    """The log by user; checks what an episode may contain of it."""

    def __init__(self, data: Dataset, split: Split, protocol: RankingProtocol) -> None:
        self._data = data
        self._by, self._window = split.by, round(protocol.window_days * DAY)
        scenes, first = np.unique(data.scene, return_index=True)
        self._started = dict(zip(scenes.tolist(), data.time[first].tolist(), strict=True))
        self._held_out = np.isin(np.arange(len(data.scenes)), split.held_out)
        self._counted = np.flatnonzero(~self._held_out[data.scene])
        self._counted_time = data.time[self._counted]
        order = np.argsort(data.user, kind="stable")
        self._of_user = np.split(order, np.searchsorted(data.user[order], np.arange(1, data.users)))

    def opens_within(self, episode: Episode, period: tuple[int, int]) -> bool:
        """Return whether an episode opens in its part's period, and ends there too.

        Where scenes are split by hash, a whole window lies within the period. Where they are split by when they start,
        the end of the period cuts windows short, and the scene exists when it opens.
        """
        begin, end = period
        if self._by == "hash":
            return begin <= episode.opened <= end - self._window
        begin = max(begin, self._started[episode.scene])
        return bool(begin <= episode.opened < end and self._data.time[episode.rows[-1]] < end)

    def support_is_first(self, episode: Episode) -> bool:
        """Return whether the support is the scene's first interactions after the opening, in order."""
        data, rows = self._data, episode.rows.cpu().numpy()
        scene = (data.scene[rows] == episode.scene).all()
        items = (data.item[rows] == episode.items[episode.support].cpu().numpy()).all()
        between = slice(*np.searchsorted(data.time, [episode.opened, data.time[rows[-1]]]))
        earlier = int((data.scene[between] == episode.scene).sum())
        return bool(scene and items and (np.diff(rows) > 0).all() and earlier <= len(rows) - 1)

    def query_is_later(self, episode: Episode, end: int) -> bool:
        """Return whether each answer was taken in this scene after the support, within window and period (`end`)."""
        data = self._data
        adapted = data.time[episode.rows[-1]]
        closes = min(episode.opened + self._window, end)
        catalogue = episode.items[: episode.candidates].cpu().numpy()
        for user, relevant in zip(episode.users.tolist(), episode.relevant.cpu().numpy(), strict=True):
            rows = self._of_user[user]
            rows = rows[(data.scene[rows] == episode.scene) & (data.time[rows] > adapted) & (data.time[rows] < closes)]
            if not np.isin(catalogue[relevant], data.item[rows]).all():
                return False
        return True

    def histories_are_past(self, episode: Episode) -> bool:
        """Return whether every history has only earlier items of its user, and none of another held-out scene."""
        data = self._data
        items, held = episode.items.cpu().numpy(), episode.held.cpu().numpy()
        rows = episode.rows.tolist()
        # A support user's history ends before the interaction, a query user's with the last support interaction.
        moments = [(int(data.user[row]), int(data.time[row])) for row in rows]
        adapted = int(data.time[rows[-1]]) + 1
        moments += [(user, adapted) for user in episode.users.tolist()]
        for columns, *counted in (
            (items[held], episode.support_history, episode.query_history),
            (items[: episode.candidates], episode.support_past, episode.query_past),
        ):
            rows = [row for part in counted for row in part.cpu().numpy()]
            if not all(self._holds(*moment, episode, columns, row) for moment, row in zip(moments, rows, strict=True)):
                return False
        return True

    def popularity_is_past(self, episode: Episode) -> bool:
        """Return whether the counts elsewhere are of days before the opening, and of other training scenes alone."""
        if not episode.elsewhere.shape[1]:
            return True
        data, opened = self._data, episode.opened // DAY * DAY
        rows = self._counted[: np.searchsorted(self._counted_time, opened)]
        rows = rows[data.scene[rows] != episode.scene]
        age, candidates = opened // DAY - data.time[rows] // DAY, episode.items[: episode.candidates].cpu().numpy()
        for half_life, counts in zip(HALF_LIVES, episode.elsewhere.cpu().numpy().T, strict=True):
            known = np.bincount(data.item[rows], 0.5 ** (age / half_life), minlength=len(data.texts))
            if not (counts <= known[candidates] * (1 + 1e-5) + 1e-6).all():
                return False
        return True

    def _holds(self, user: int, before: int, episode: Episode, items: Ints, counts: npt.NDArray[np.float32]) -> bool:
        data = self._data
        rows = self._of_user[user]
        rows = rows[: np.searchsorted(data.time[rows], before)]
        own = data.scene[rows] == episode.scene
        allowed = np.where(own, data.time[rows] >= episode.opened, ~self._held_out[data.scene[rows]])
        taken, times = np.unique(data.item[rows[allowed]], return_counts=True)
        available = dict(zip(taken.tolist(), times.tolist(), strict=True))
        return all(counts[i] <= available.get(int(items[i]), 0) for i in np.flatnonzero(counts))
