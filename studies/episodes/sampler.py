"""Samples episodes: a scene opens, its first K interactions are the support, what follows is the query.

An episode is all that a recommender may see of one opening and all that it is scored on. Its indices are local: it
lists the distinct items it touches once (`items`, the candidates first), so that each text is encoded once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from storage.errors import InputError
from studies.config.protocol_section import ProtocolSection
from studies.data.dataset import Dataset, Ints
from studies.episodes.lexicon import Lexicon, overlap
from studies.episodes.scene_texts import SceneTexts
from studies.episodes.split import MINIMUM_SCENES, Split, SplitName
from studies.progress import Progress

DAY = 86_400


@dataclass(frozen=True)
class Episode:
    """One opening of one scene.

    Shapes: C candidates, K support interactions, Q queries (one user each), M distinct items ≥ C, of which histories
    may hold the last H. Sampled episodes have H = M; serving lists what histories hold apart, behind the candidates,
    those that are candidates too once more, so that nothing is made for all pairs of a large catalogue's items.

    Attributes:
        scene: scene code.
        opened: when the scene opens, UTC seconds.
        items: (M,) item codes touched; the first C are the scene's whole catalogue, ascending.
        candidates: C.
        support: (K,) position in `items` of each support interaction's item, in order of time.
        support_history: (K, H) how often each item is in the support user's history, as of just before the interaction.
        query_history: (Q, H) the same for each query's user, as of the last support interaction.
        relevant: (Q, C) whether the user takes the candidate after the support and before the window closes.
        excluded: (Q, C) whether the candidate is not to be ranked for the user, who had it before the query
            (`protocol.repeat = "exclude"`); never relevant.
        elsewhere: (C,) how often anyone took the candidate in scenes that are not held out, up to the last support
            interaction: zero where scenes share no items.
        overlap: (K, C) how alike the words of each support interaction's item and each candidate are, in [0, 1].
        fields: (K, C) the same of their texts' fields.
        terms: (C, F) what the catalogue says of each candidate: `studies.episodes.catalogue_terms.terms`.
        users: (Q,) user code of each query.
        rows: (K,) row of the data set of each support interaction.
    """

    scene: int
    opened: int
    items: Tensor
    candidates: int
    support: Tensor
    support_history: Tensor
    query_history: Tensor
    relevant: Tensor
    excluded: Tensor
    elsewhere: Tensor
    overlap: Tensor
    fields: Tensor
    terms: Tensor
    users: Tensor
    rows: Tensor

    @property
    def first_held(self) -> int:
        """From which of the items on histories count: the first, or the first behind the candidates."""
        return len(self.items) - self.support_history.shape[1]

    @cached_property
    def support_others(self) -> Tensor:
        """(O,) positions of the items that some support user had and that are not listed as candidates."""
        others = self.support_history[:, self.candidates - self.first_held :]
        return others.any(dim=0).nonzero().squeeze(1) + self.candidates

    def to(self, device: torch.device) -> Episode:
        """The same episode with its tensors on `device`."""
        tensors = {field.name: getattr(self, field.name) for field in fields(self)}
        moved: dict[str, Any] = {n: value.to(device) for n, value in tensors.items() if isinstance(value, Tensor)}
        return replace(self, **moved)


class EpisodeSampler:
    """Samples the episodes of one data set under one protocol.

    Args:
        data: the shop.
        split: of its scenes.
        protocol: what an episode is.
        progress: called with (texts done, texts in all) while words are counted.

    Attributes:
        lexicon: the words of the texts that training may read.
    """

    def __init__(
        self, data: Dataset, split: Split, protocol: ProtocolSection, progress: Progress | None = None
    ) -> None:
        self._data, self._split, self._protocol = data, split, protocol
        # Rows by scene and by user, each in order of time (the sort is stable): two index lists with their starts.
        self._by_scene = np.argsort(data.scene, kind="stable")
        self._scene_start = np.searchsorted(data.scene[self._by_scene], np.arange(len(data.scenes) + 1))
        self._by_user = np.argsort(data.user, kind="stable")
        self._user_start = np.searchsorted(data.user[self._by_user], np.arange(data.users + 1))
        self._held_out = np.isin(np.arange(len(data.scenes)), split.held_out)
        shared = protocol.candidates == "all" or data.scenes_share_items
        self._takes = _Takes(data, ~self._held_out[data.scene]) if shared else None
        self._texts = SceneTexts(data, split, protocol, progress)
        self.lexicon: Lexicon = self._texts.lexicon

    def sample(self, part: SplitName, draw: int = 0, progress: Progress | None = None) -> list[Episode]:
        """All episodes of a part, in a fixed order: by scene, then by opening.

        Openings are spread over the part's period, one drawn at random in each of as many equal slices; an opening
        whose window holds no support or no query is left out, and so is a scene without any (a seasonal one, say).

        Args:
            part: whose scenes.
            draw: 0 is the protocol's own draw of openings and query users; every other number is another one.
            progress: called with (scenes done, scenes in all).

        Raises:
            InputError: too few scenes of the part give an episode.
        """
        protocol = self._protocol
        queries = protocol.train_queries if part == "train" else protocol.queries
        episodes = []
        for number, scene in enumerate(scenes := self._split.scenes[part], start=1):
            rng = np.random.default_rng([protocol.seed, int(scene), *([draw] if draw else [])])
            drawn = [self.episode(int(scene), time, queries, rng) for time in self._openings(part, rng)]
            episodes += [episode for episode in drawn if episode is not None]
            if progress is not None:
                progress(number, len(scenes))
        # Another draw stands beside the protocol's own, whose scenes were enough.
        least = MINIMUM_SCENES[part] if draw == 0 else 1
        if (found := len({episode.scene for episode in episodes})) < least:
            raise InputError(
                f"only {found} of {len(self._split.scenes[part])} meta-{part} scenes ever see {protocol.shots} "
                f"interactions and a later query within {protocol.window_days} days of an opening; at least "
                f"{least} are needed: lower protocol.shots, widen protocol.window_days, or raise "
                "data.min_interactions"
            )
        return episodes

    def nested(
        self, part: SplitName, shots: Sequence[int], progress: Progress | None = None
    ) -> dict[int, list[Episode]]:
        """Episodes of the same openings and the same queries under supports of several sizes.

        The queries lie after the largest support, so that recall against shots changes with the support alone. Sizes
        that leave fewer than half of the part's scenes (and at least the minimum) an episode are left out, the
        largest first.

        Args:
            part: whose scenes.
            shots: sizes of the support, ascending.
            progress: called with (sizes done, sizes in all).
        """
        needed = max(MINIMUM_SCENES[part], -(-len(self._split.scenes[part]) // 2))
        for count in range(len(shots), 0, -1):
            episodes: dict[int, list[Episode]] = {}
            for size in shots[:count]:
                episodes[size] = self._after(part, size, shots[count - 1])
                if progress is not None:
                    progress(len(episodes), count)
            if len({episode.scene for episode in episodes[shots[0]]}) >= needed:
                return episodes
        return {}

    def _after(self, part: SplitName, shots: int, settled: int) -> list[Episode]:
        episodes = []
        for scene in self._split.scenes[part]:
            times = self._openings(part, np.random.default_rng([self._protocol.seed, int(scene)]))
            for number, time in enumerate(times):
                # A generator for each opening: every size of the support draws the same users.
                rng = np.random.default_rng([self._protocol.seed, int(scene), number])
                episode = self.episode(int(scene), time, self._protocol.queries, rng, shots=shots, settled=settled)
                episodes += [] if episode is None else [episode]
        return episodes

    def _openings(self, part: SplitName, rng: np.random.Generator) -> list[int]:
        protocol = self._protocol
        count = protocol.train_openings if part == "train" else protocol.openings
        begin, end = self._split.period[part]
        latest = end - round(protocol.window_days * DAY)
        return [int(time) for time in begin + (np.arange(count) + rng.random(count)) / count * (latest - begin)]

    def episode(
        self,
        scene: int,
        opened: int,
        queries: int,
        rng: np.random.Generator,
        *,
        shots: int | None = None,
        settled: int | None = None,
    ) -> Episode | None:
        """One opening of one scene; None if its window holds no query.

        Args:
            scene: scene code.
            opened: UTC seconds.
            queries: most users to draw.
            rng: draws them.
            shots: size of the support; the protocol's if left out.
            settled: number of interactions that the queries come after; the support's if left out.
        """
        data = self._data
        shots = shots or self._protocol.shots
        settled = settled or shots
        rows = self._by_scene[self._scene_start[scene] : self._scene_start[scene + 1]]
        closes = opened + round(self._protocol.window_days * DAY)
        window = rows[np.searchsorted(data.time[rows], opened) : np.searchsorted(data.time[rows], closes)]
        if len(window) <= settled:
            return None
        later = window[np.searchsorted(data.time[window], data.time[window[settled - 1]], side="right") :]
        if len(later) == 0:
            return None
        users = np.unique(data.user[later])
        if len(users) > queries:
            users = np.sort(rng.choice(users, queries, replace=False))
        return self._assemble(scene, opened, window[:shots], users, later)

    def _assemble(self, scene: int, opened: int, support: Ints, users: Ints, later: Ints) -> Episode:
        """The episode of (K,) support rows and (Q,) users, who take what `later` rows say."""
        data = self._data
        candidates = self._texts.candidates(scene)
        adapted = int(data.time[support[-1]])
        relevant = np.zeros((len(users), len(candidates)), dtype=bool)
        asked = later[np.isin(data.user[later], users)]
        relevant[np.searchsorted(users, data.user[asked]), np.searchsorted(candidates, data.item[asked])] = True
        # A support user's history ends before the interaction; a query's ends when the support is complete.
        length = self._protocol.history
        before = [self._visible(data.user[row], int(data.time[row]), scene, opened)[-length:] for row in support]
        known = [self._visible(user, adapted + 1, scene, opened) for user in users]
        items, counts = _localise(candidates, [*before, *(taken[-length:] for taken in known)])
        places = np.searchsorted(candidates, data.item[support])
        said = self._texts.of(scene)
        excluded = np.zeros_like(relevant)
        if self._protocol.repeat == "exclude":
            for row, taken in enumerate(known):
                excluded[row] = np.isin(candidates, taken)
        return Episode(
            scene=scene,
            opened=opened,
            items=torch.from_numpy(items),
            candidates=len(candidates),
            support=torch.from_numpy(places),
            support_history=torch.from_numpy(counts[: len(support)]),
            query_history=torch.from_numpy(counts[len(support) :]),
            relevant=torch.from_numpy(relevant),
            excluded=torch.from_numpy(excluded),
            elsewhere=torch.from_numpy(self._elsewhere(scene, candidates, adapted)),
            overlap=torch.from_numpy(overlap(said.words, places)),
            fields=torch.from_numpy(overlap(said.fields, places)),
            terms=torch.from_numpy(said.terms),
            users=torch.from_numpy(users),
            rows=torch.from_numpy(support),
        )

    def _visible(self, user: int, before: int, scene: int, opened: int) -> Ints:
        """The items a user took before a time as far as an episode may know, oldest first.

        Interactions in held-out scenes never appear (they are the future of other episodes), except the scene's own,
        and those only from its opening on: before it the scene did not exist.
        """
        data = self._data
        rows = self._by_user[self._user_start[user] : self._user_start[user + 1]]
        rows = rows[: np.searchsorted(data.time[rows], before)]
        own = data.scene[rows] == scene
        return data.item[rows[np.where(own, data.time[rows] >= opened, ~self._held_out[data.scene[rows]])]]

    def _elsewhere(self, scene: int, candidates: Ints, until: int) -> npt.NDArray[np.float32]:
        """(C,) how often each candidate was taken up to a time in other scenes that are not held out."""
        if self._takes is None:
            return np.zeros(len(candidates), dtype=np.float32)
        counts = self._takes.count(candidates, until)
        if not self._held_out[scene]:
            rows = self._by_scene[self._scene_start[scene] : self._scene_start[scene + 1]]
            rows = rows[: np.searchsorted(self._data.time[rows], until, side="right")]
            counts -= np.bincount(np.searchsorted(candidates, self._data.item[rows]), minlength=len(candidates))
        return counts.astype(np.float32)


class _Takes:
    """How often each item was taken in some rows up to a time: rows sorted by (item, time), as one key each."""

    def __init__(self, data: Dataset, rows: npt.NDArray[np.bool_]) -> None:
        self._start, self._span = int(data.time[0]), int(data.time[-1] - data.time[0]) + 2
        self._keys = np.sort(data.item[rows] * self._span + data.time[rows] - self._start)

    def count(self, items: Ints, until: int) -> Ints:
        """(C,) takes of each item at or before `until`."""
        within = min(max(until - self._start + 1, 0), self._span - 1)
        first = np.searchsorted(self._keys, items * self._span)
        return np.searchsorted(self._keys, items * self._span + within) - first


def _localise(candidates: Ints, histories: list[Ints]) -> tuple[Ints, npt.NDArray[np.float32]]:
    """The distinct items of an episode, candidates first, and each history as counts over them: (M,) and (R, M)."""
    others = np.setdiff1d(np.concatenate(histories), candidates)
    items = np.concatenate([candidates, others])
    sorter = np.argsort(items)
    counts = np.zeros((len(histories), len(items)), dtype=np.float32)
    for row, history in enumerate(histories):
        np.add.at(counts[row], sorter[np.searchsorted(items, history, sorter=sorter)], 1)
    return items, counts
