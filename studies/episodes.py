"""Samples episodes: a scene opens, its first K interactions are the support, what follows is the query.

An episode is all that a recommender may see of one opening and all that it is scored on. Its indices are local: it
lists the distinct items it touches once (`items`, the candidates first), so that each text is encoded once.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from storage.errors import InputError
from studies.data.dataset import Dataset, Ints
from studies.scenes import MINIMUM_SCENES, Part, Split
from studies.spec import ProtocolSection

DAY = 86_400


@dataclass(frozen=True)
class Episode:
    """One opening of one scene.

    Shapes: C candidates, K support interactions, Q queries (one user each), M distinct items ≥ C.

    Attributes:
        scene: scene code.
        opened: when the scene opens, UTC seconds.
        items: (M,) item codes touched; the first C are the scene's whole catalogue, ascending.
        candidates: C.
        support: (K,) position in `items` of each support interaction's item, in order of time.
        support_history: (K, M) how often each item is in the support user's history, as of just before the interaction.
        query_history: (Q, M) the same for each query's user, as of the last support interaction.
        relevant: (Q, C) whether the user takes the candidate after the support and before the window closes.
    """

    scene: int
    opened: int
    items: Tensor
    candidates: int
    support: Tensor
    support_history: Tensor
    query_history: Tensor
    relevant: Tensor

    def to(self, device: torch.device) -> Episode:
        """The same episode with its tensors on `device`."""
        moved: dict[str, Any] = {n: value.to(device) for n, value in vars(self).items() if isinstance(value, Tensor)}
        return replace(self, **moved)


class EpisodeSampler:
    """Samples the episodes of one data set under one protocol."""

    def __init__(self, data: Dataset, split: Split, protocol: ProtocolSection) -> None:
        self._data, self._split, self._protocol = data, split, protocol
        scene = data.item_scene[data.item]
        # Rows by scene and by user, each in order of time (the sort is stable): two index lists with their starts.
        self._by_scene = np.argsort(scene, kind="stable")
        self._scene_start = np.searchsorted(scene[self._by_scene], np.arange(len(data.scenes) + 1))
        self._by_user = np.argsort(data.user, kind="stable")
        self._user_start = np.searchsorted(data.user[self._by_user], np.arange(int(data.user.max()) + 2))
        self._first_item = np.searchsorted(data.item_scene, np.arange(len(data.scenes) + 1))
        self._held_out = np.isin(np.arange(len(data.scenes)), split.held_out)

    def sample(self, part: Part) -> list[Episode]:
        """All episodes of a part, in a fixed order: by scene, then by opening.

        Openings are spread over the part's period, one drawn at random in each of as many equal slices; an opening
        whose window holds no support or no query is left out, and so is a scene without any (a seasonal one, say).

        Raises:
            InputError: too few scenes of the part give an episode.
        """
        protocol = self._protocol
        openings = protocol.train_openings if part == "train" else protocol.openings
        queries = protocol.train_queries if part == "train" else protocol.queries
        begin, end = self._split.period[part]
        latest = end - round(protocol.window_days * DAY)
        episodes = []
        for scene in self._split.scenes[part]:
            rng = np.random.default_rng([protocol.seed, int(scene)])
            times = begin + (np.arange(openings) + rng.random(openings)) / openings * (latest - begin)
            drawn = [self.episode(int(scene), int(time), queries, rng) for time in times]
            episodes += [episode for episode in drawn if episode is not None]
        if (found := len({episode.scene for episode in episodes})) < MINIMUM_SCENES[part]:
            raise InputError(
                f"only {found} of {len(self._split.scenes[part])} meta-{part} scenes ever see {protocol.shots} "
                f"interactions and a later query within {protocol.window_days} days of an opening; at least "
                f"{MINIMUM_SCENES[part]} are needed: lower protocol.shots, widen protocol.window_days, or raise "
                "data.min_interactions"
            )
        return episodes

    def episode(self, scene: int, opened: int, queries: int, rng: np.random.Generator) -> Episode | None:
        """The episode of `scene` opening at `opened`, with at most `queries` users; None if there is no query."""
        data, shots = self._data, self._protocol.shots
        rows = self._by_scene[self._scene_start[scene] : self._scene_start[scene + 1]]
        closes = opened + round(self._protocol.window_days * DAY)
        window = rows[np.searchsorted(data.time[rows], opened) : np.searchsorted(data.time[rows], closes)]
        if len(window) <= shots:
            return None
        support = window[:shots]
        adapted = int(data.time[support[-1]])
        later = window[np.searchsorted(data.time[window], adapted, side="right") :]
        if len(later) == 0:
            return None
        users = np.unique(data.user[later])
        if len(users) > queries:
            users = np.sort(rng.choice(users, queries, replace=False))
        first, last = self._first_item[scene], self._first_item[scene + 1]
        relevant = np.zeros((len(users), last - first), dtype=bool)
        asked = np.isin(data.user[later], users)
        relevant[np.searchsorted(users, data.user[later][asked]), data.item[later][asked] - first] = True
        # A support user's history ends before the interaction; a query's ends when the support is complete.
        histories = [self._history(data.user[row], int(data.time[row]), scene, opened) for row in support]
        histories += [self._history(user, adapted + 1, scene, opened) for user in users]
        items, counts = _localise(first, last, histories)
        return Episode(
            scene=scene,
            opened=opened,
            items=torch.from_numpy(items),
            candidates=last - first,
            support=torch.from_numpy(data.item[support] - first),
            support_history=torch.from_numpy(counts[:shots]),
            query_history=torch.from_numpy(counts[shots:]),
            relevant=torch.from_numpy(relevant),
        )

    def _history(self, user: int, before: int, scene: int, opened: int) -> Ints:
        """The user's last items before a time, oldest first; at most the protocol's `history` of them.

        Items of held-out scenes never appear (they are the future of other episodes), except the scene's own, and
        those only from its opening on: before it the scene did not exist.
        """
        data, length = self._data, self._protocol.history
        rows = self._by_user[self._user_start[user] : self._user_start[user + 1]]
        rows = rows[: np.searchsorted(data.time[rows], before)]
        scenes = data.item_scene[data.item[rows]]
        own = scenes == scene
        rows = rows[np.where(own, data.time[rows] >= opened, ~self._held_out[scenes])]
        return data.item[rows[-length:]]


def _localise(first: int, last: int, histories: list[Ints]) -> tuple[Ints, npt.NDArray[np.float32]]:
    """The distinct items of an episode, candidates first, and each history as counts over them: (M,) and (R, M)."""
    candidates = np.arange(first, last)
    seen = np.unique(np.concatenate(histories))
    others = seen[(seen < first) | (seen >= last)]
    items = np.concatenate([candidates, others])
    sorter = np.argsort(items)
    counts = np.zeros((len(histories), len(items)), dtype=np.float32)
    for row, history in enumerate(histories):
        np.add.at(counts[row], sorter[np.searchsorted(items, history, sorter=sorter)], 1)
    return items, counts
