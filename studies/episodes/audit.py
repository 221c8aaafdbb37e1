"""The leakage audit: what would make a recall too good to be true, looked for in the data and in the episodes.

It reads the log itself and trusts nothing that the sampler derived. `hpo data check` shows its findings; every study
runs it on the data and on each part's episodes before it uses them, and refuses to go on where something leaks.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
import numpy.typing as npt

from storage.errors import InputError
from studies.config.protocol_section import ProtocolSection
from studies.data.dataset import Dataset, Ints
from studies.episodes.sampler import DAY, Episode
from studies.episodes.split import SPLIT_NAMES, Split, SplitName
from studies.progress import Progress

# A log with days for times can hold the same purchase in two stores by honest chance; more than this is a copy.
TWICE = 0.01


@dataclass(frozen=True)
class Finding:
    """The outcome of one check.

    Attributes:
        check: what was looked for.
        status: "leak" invalidates every recall; a "note" is worth knowing; "ok" was looked for and is not there.
        detail: what was found, with numbers.
    """

    check: str
    status: Literal["ok", "note", "leak"]
    detail: str


def refuse_leaks(findings: Iterable[Finding]) -> None:
    """Stops a study whose figures would mean nothing.

    Raises:
        InputError: something leaks; says what and where.
    """
    for finding in findings:
        if finding.status == "leak":
            raise InputError(
                f"leakage audit: {finding.check}: {finding.detail}; no recall on these data would mean anything: "
                "mend the data, then hpo data check STUDY.toml shows the whole audit"
            )


def audit_data(data: Dataset, split: Split) -> list[Finding]:
    """Checks that need no episodes: scenes, periods, and what held-out scenes share with training."""
    return [_scenes_shared(data, split), _periods(split), _events_twice(data, split), _texts_seen(data, split)]


def _scenes_shared(data: Dataset, split: Split) -> Finding:
    check = "scenes shared between splits"
    part_of: dict[str, str] = {}
    for part in SPLIT_NAMES:
        for code in split.scenes[part]:
            # "Tea" and "tea " are one scene written twice.
            name = " ".join(data.scenes[code].casefold().split())
            if part_of.setdefault(name, part) != part:
                return Finding(check, "leak", f"scene {data.scenes[code]!r} is in meta-{part} and meta-{part_of[name]}")
    return Finding(check, "ok", f"{len(part_of)} scenes, each in one part")


def _periods(split: Split) -> Finding:
    check = "periods in order"
    for earlier, later in pairwise(SPLIT_NAMES):
        if split.period[earlier][1] > split.period[later][0]:
            return Finding(check, "leak", f"the {later} period begins before the {earlier} period ends")
    return Finding(check, "ok", "training ends before validation begins, validation before test")


def _events_twice(data: Dataset, split: Split) -> Finding:
    """The same user taking the same item at the same second, in scenes of different parts."""
    check = "interactions in two splits"
    part_of = np.zeros(len(data.scenes), dtype=np.int64)
    for code, part in enumerate(SPLIT_NAMES):
        part_of[split.scenes[part]] = code
    parts = part_of[data.scene]
    # Rows are sorted by time, user, item and scene: copies are neighbours.
    same = (np.diff(data.time) == 0) & (np.diff(data.user) == 0) & (np.diff(data.item) == 0) & (np.diff(parts) != 0)
    pairs = np.sort(np.stack([parts[:-1][same], parts[1:][same]]), axis=0)
    worst = Finding(check, "ok", "no user takes the same item at the same second in scenes of two parts")
    for earlier, later in ((0, 1), (0, 2), (1, 2)):
        twice = int(((pairs[0] == earlier) & (pairs[1] == later)).sum()) / max(1, int((parts == later).sum()))
        if twice > 0 and worst.status != "leak":
            late, early = SPLIT_NAMES[later], SPLIT_NAMES[earlier]
            said = f"{twice:.1%} of the meta-{late} interactions are in meta-{early} scenes too"
            worst = Finding(check, "leak" if twice > TWICE else "note", said)
    return worst


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
    protocol: ProtocolSection,
    part: SplitName,
    episodes: Sequence[Episode],
    progress: Progress | None = None,
) -> list[Finding]:
    """Checks every episode of a part against the log; `progress` is called with (episodes checked, in all)."""
    log = _Log(data, split, protocol)
    problems: dict[str, list[str]] = {name: [] for name in _EPISODE_CHECKS}
    for number, episode in enumerate(episodes, start=1):
        where = f"scene {data.scenes[episode.scene]!r} opened at {episode.opened}"
        begin, end = split.period[part]
        closes = episode.opened + round(protocol.window_days * DAY)
        if episode.scene not in split.scenes[part] or episode.opened < begin or closes > end:
            problems["episodes outside their part"].append(where)
        if not log.support_is_first(episode):
            problems["support not the first interactions"].append(where)
        if not log.query_is_later(episode):
            problems["support later than query"].append(where)
        if not log.histories_are_past(episode):
            problems["history reaching past an interaction"].append(where)
        if progress is not None:
            progress(number, len(episodes))
    findings = [_episode_finding(check, found, part, len(episodes)) for check, found in problems.items()]
    return [*findings, _common_items(episodes, protocol, part)]


_EPISODE_CHECKS = (
    "episodes outside their part",
    "support not the first interactions",
    "support later than query",
    "history reaching past an interaction",
)


def _episode_finding(check: str, found: list[str], part: SplitName, total: int) -> Finding:
    if found:
        return Finding(check, "leak", f"{len(found)} of {total} meta-{part} episodes, the first in {found[0]}")
    return Finding(check, "ok", f"none of {total} meta-{part} episodes")


def _common_items(episodes: Sequence[Episode], protocol: ProtocolSection, part: SplitName) -> Finding:
    check = "items common to support and query"
    asked = sum(int(episode.relevant.sum()) for episode in episodes)
    common = sum(int(episode.relevant[:, list(set(episode.support.tolist()))].sum()) for episode in episodes)
    again = sum(int((episode.relevant & episode.excluded).sum()) for episode in episodes)
    if again:
        return Finding(check, "leak", f"{again} answers of meta-{part} are items that their user had before")
    said = f"{common / max(1, asked):.0%} of the answers of meta-{part} are items of the support"
    if protocol.repeat == "allow":
        said += ", which new-item recall leaves out"
    return Finding(check, "note" if common else "ok", said)


class _Log:
    """The log by user, and what an episode may have of it."""

    def __init__(self, data: Dataset, split: Split, protocol: ProtocolSection) -> None:
        self._data, self._protocol = data, protocol
        self._held_out = np.isin(np.arange(len(data.scenes)), split.held_out)
        order = np.argsort(data.user, kind="stable")
        self._of_user = np.split(order, np.searchsorted(data.user[order], np.arange(1, data.users)))

    def support_is_first(self, episode: Episode) -> bool:
        """Whether the support is what the scene saw first after opening, in order."""
        data, rows = self._data, episode.rows.cpu().numpy()
        scene = (data.scene[rows] == episode.scene).all()
        items = (data.item[rows] == episode.items[episode.support].cpu().numpy()).all()
        between = slice(*np.searchsorted(data.time, [episode.opened, data.time[rows[-1]]]))
        earlier = int((data.scene[between] == episode.scene).sum())
        return bool(scene and items and (np.diff(rows) > 0).all() and earlier <= len(rows) - 1)

    def query_is_later(self, episode: Episode) -> bool:
        """Whether each answer was taken in this scene after the support and inside the window."""
        data = self._data
        adapted = data.time[episode.rows[-1]]
        closes = episode.opened + round(self._protocol.window_days * DAY)
        catalogue = episode.items[: episode.candidates].cpu().numpy()
        for user, relevant in zip(episode.users.tolist(), episode.relevant.cpu().numpy(), strict=True):
            rows = self._of_user[user]
            rows = rows[(data.scene[rows] == episode.scene) & (data.time[rows] > adapted) & (data.time[rows] < closes)]
            if not np.isin(catalogue[relevant], data.item[rows]).all():
                return False
        return True

    def histories_are_past(self, episode: Episode) -> bool:
        """Whether every history holds only what its user took before, and nothing of another held-out scene."""
        data = self._data
        items = episode.items.cpu().numpy()
        rows = episode.rows.tolist()
        # Up to, and not including: the support's own moment for its users, the moment after the last for a query's.
        moments = [(int(data.user[row]), int(data.time[row])) for row in rows]
        adapted = int(data.time[rows[-1]]) + 1
        moments += [(user, adapted) for user in episode.users.tolist()]
        histories = [*episode.support_history.cpu().numpy(), *episode.query_history.cpu().numpy()]
        return all(
            self._holds(user, before, episode, items, counts)
            for (user, before), counts in zip(moments, histories, strict=True)
        )

    def _holds(self, user: int, before: int, episode: Episode, items: Ints, counts: npt.NDArray[np.float32]) -> bool:
        data = self._data
        rows = self._of_user[user]
        rows = rows[: np.searchsorted(data.time[rows], before)]
        own = data.scene[rows] == episode.scene
        allowed = np.where(own, data.time[rows] >= episode.opened, ~self._held_out[data.scene[rows]])
        taken, times = np.unique(data.item[rows[allowed]], return_counts=True)
        available = dict(zip(taken.tolist(), times.tolist(), strict=True))
        return all(counts[i] <= available.get(int(items[i]), 0) for i in np.flatnonzero(counts))
