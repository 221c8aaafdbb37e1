"""Which scenes of a split have an episode; if too few have one, why that is so and what would help.

A remedy is tried on the data before it is named: scenes are selected, split and opened again under the changed keys.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np

from storage.errors import InputError
from studies.config.protocol_section import RankingProtocol
from studies.data.dataset import Dataset, Ints
from studies.episodes.interactions import InteractionIndex
from studies.episodes.openings import closing_time, draw_openings
from studies.episodes.split import (
    DAY,
    LIFE,
    MINIMUM_SCENES,
    SPLIT_NAMES,
    Split,
    SplitName,
    scene_quantiles,
    split_scenes,
)

# Windows that are tried, as multiples of the study's own.
WIDER = (1.5, 2, 3, 4, 6, 8, 13)
# Minima that are tried, as quantiles of the scenes' numbers of interactions.
HIGHER = (0.1, 0.25, 0.5, 0.75)
# Keys with other values.
Change = dict[str, Any]
# Selects the scenes of a study under another protocol, and under another data.min_interactions unless it is None.
Reselect = Callable[[RankingProtocol, int | None], Dataset]
# Whether scenes with an episode, of the scenes of a split, are enough.
Enough = Callable[[SplitName, int, int], bool]


def enough_for_a_mean(split_name: SplitName, covered: int, scenes: int) -> bool:
    """Return whether a split's mean says anything."""
    return covered >= MINIMUM_SCENES[split_name]


class Coverage:
    """The scenes that have an episode, by split.

    Args:
        data: The shop.
        split: Split of its scenes.
        protocol: Definition of an episode.

    Attributes:
        covered: Codes of the scenes with an episode in the protocol's own draw.
    """

    def __init__(self, data: Dataset, split: Split, protocol: RankingProtocol) -> None:
        self._data, self._split, self._protocol = data, split, protocol
        self._interactions = InteractionIndex(data, split)
        self.covered: Mapping[SplitName, Ints] = {
            name: np.array(
                [scene for scene in split.scenes[name] if self._has_episode(name, int(scene))], dtype=np.int64
            )
            for name in SPLIT_NAMES
        }

    def _has_episode(self, name: SplitName, scene: int) -> bool:
        rng = np.random.default_rng([self._protocol.seed, scene])  # the sampler's, hence the same openings
        openings = draw_openings(self._protocol, self._split, name, self._interactions.life(scene), rng)
        closings = [closing_time(self._protocol, self._split, scene, opened) for opened in openings]
        return any(map(partial(self._is_episode, scene), openings, closings))

    def _is_episode(self, scene: int, opened: int, closes: int) -> bool:
        shots, users = self._protocol.shots, self._protocol.min_queries
        return self._interactions.support_and_later(scene, opened, closes, shots, users) is not None

    def suffices(self, enough: Enough) -> bool:
        """Return whether every split has enough scenes with an episode."""
        return all(enough(name, len(self.covered[name]), len(self._split.scenes[name])) for name in SPLIT_NAMES)

    def explain(self, split_name: SplitName, found: int, needed: str, remedies: list[str]) -> str:
        """Return a message on a split in which too few scenes have an episode: the cause, and what helps.

        Args:
            split_name: The split.
            found: Number of its scenes with an episode.
            needed: How many are needed, as a clause.
            remedies: What helps.
        """
        protocol, total = self._protocol, len(self._split.scenes[split_name])
        window = f"{protocol.window_days:g} days"
        users = f" of each of {protocol.min_queries} users" if protocol.min_queries > 1 else ""
        helps = "; or ".join(remedies) or (
            "neither another protocol.split_by nor fewer shots nor a wider window helps: use scenes with more "
            "interactions, by another column in data.scene or by higher minima in [data]"
        )
        return (
            f"only {found} of {total} meta-{split_name} scenes see {_count(protocol.shots, 'interaction')} and "
            f"a later query{users} within {window} of an opening, and {needed}: {self._cause(split_name)}; {helps}"
        )

    def _cause(self, split_name: SplitName) -> str:
        data, (begin, end) = self._data, self._split.period[split_name]
        without = np.setdiff1d(self._split.scenes[split_name], self.covered[split_name])
        missed = [scene for scene in without.tolist() if self._would_have_one_at_its_start(scene)]
        if self._split.by == "hash" and len(missed) >= len(without) / 2:
            first, last = (times[missed] for times in scene_quantiles(data, *LIFE))
            return (
                f"{len(missed)} of the other {len(without)} would have an episode at their own start, but live "
                f"{np.median(last - first) / DAY:.0f} days (median) and miss the openings of the {split_name} period "
                f"({_day(begin)} to {_day(end - 1)}), to which they fall by hash"
            )
        within = np.bincount(data.scene[(data.time >= begin) & (data.time < end)], minlength=len(data.scenes))
        return (
            f"the other {len(without)} have too few interactions, {np.median(within[without]):.0f} (median) in the "
            f"{split_name} period of {(end - begin) / DAY:.0f} days"
        )

    def _would_have_one_at_its_start(self, scene: int) -> bool:
        start, window = self._interactions.life(scene)[0], round(self._protocol.window_days * DAY)
        return self._is_episode(scene, start, start + window)

    def remedies(self, reselect: Reselect | None = None, enough: Enough = enough_for_a_mean) -> list[str]:
        """Return changes of the study file that help, each by itself; where none does, one of two together.

        Args:
            reselect: Selects the scenes of a changed study; the same scenes where it is left out.
            enough: What each split must reach.
        """
        other = "hash" if self._split.by == "opening" else "opening"
        shots, windows = list(self._fewer_shots()), list(self._wider_windows())
        kinds = [[{"split_by": other}], shots, windows, list(self._higher_minima()) if reselect else []]
        if self._protocol.min_queries > 1:
            kinds.append([{"min_queries": 1}])
        helpful = (self._first(kind, reselect, enough) for kind in kinds)
        if single := [change for change in helpful if change]:
            return [_setting(change) for change in single]
        pairs: list[Change] = [{"split_by": other, **change} for change in (*shots, *windows)]
        found = self._first([*pairs, *({**fewer, **wider} for fewer in shots for wider in windows)], reselect, enough)
        return [_setting(found)] if found else []

    def _fewer_shots(self) -> Iterator[Change]:
        shots = self._protocol.shots
        while shots > 1:
            shots = max(1, min(shots - 1, shots * 2 // 3))
            yield {"shots": shots}

    def _wider_windows(self) -> Iterator[Change]:
        longest = (self._data.time[-1] - self._data.time[0]) / DAY
        for factor in WIDER:
            if (days := round(self._protocol.window_days * factor, 2)) < longest:
                yield {"window_days": int(days) if days == int(days) else days}

    def _higher_minima(self) -> Iterator[Change]:
        sizes = np.bincount(self._data.scene, minlength=len(self._data.scenes))
        for size in np.unique(np.quantile(sizes, HIGHER, method="nearest")):
            yield {"min_interactions": int(size)}

    def _first(self, changes: list[Change], reselect: Reselect | None, enough: Enough) -> Change | None:
        return next((change for change in changes if self._helps(change, reselect, enough)), None)

    def _helps(self, change: Change, reselect: Reselect | None, enough: Enough) -> bool:
        changes = dict(change)
        minimum = changes.pop("min_interactions", None)
        protocol = self._protocol.model_copy(update=changes)
        try:
            data = self._data if reselect is None else reselect(protocol, minimum)
            return Coverage(data, split_scenes(data, protocol), protocol).suffices(enough)
        except InputError:
            return False


def _setting(change: Change) -> str:
    sections = {key: "data" if key == "min_interactions" else "protocol" for key in change}
    values = [f"{sections[key]}.{key} = {json.dumps(value)}" for key, value in change.items()]
    return "set " + " and ".join(values)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _day(time: int) -> str:
    return str(np.datetime64(time, "s").astype("datetime64[D]"))
