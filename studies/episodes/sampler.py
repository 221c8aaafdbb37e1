"""Samples episodes: a scene opens, its first K interactions are the support, what follows is the query."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from storage.errors import InputError
from studies.config.protocol_section import RankingProtocol
from studies.data.dataset import Dataset, Ints
from studies.episodes.coverage import Coverage, Reselect
from studies.episodes.elsewhere import MOST_TAKEN, PopularityElsewhere, shares_items
from studies.episodes.episode import Episode
from studies.episodes.interactions import InteractionIndex
from studies.episodes.openings import closing_time, draw_openings
from studies.episodes.scene_texts import SceneTexts
from studies.episodes.split import MINIMUM_SCENES, Split, SplitName
from studies.episodes.tfidf import Lexicon, overlap
from studies.progress import Progress


class EpisodeSampler:
    """Samples the episodes of one data set under one protocol.

    Args:
        data: The shop.
        split: Split of its scenes.
        protocol: Definition of an episode.
        progress: Called with (texts done, texts in all) while words are counted.
        reselect: Selects the scenes of a changed study, which shows what would help where too few have episodes.

    Attributes:
        lexicon: Word frequencies of the texts that training may read.
    """

    def __init__(
        self,
        data: Dataset,
        split: Split,
        protocol: RankingProtocol,
        progress: Progress | None = None,
        *,
        reselect: Reselect | None = None,
    ) -> None:
        self._data, self._split, self._protocol, self._reselect = data, split, protocol, reselect
        self._interactions = InteractionIndex(data, split)
        self._elsewhere = PopularityElsewhere(data, split) if shares_items(data, protocol) else None
        self._texts = SceneTexts(data, split, protocol, progress)
        self.lexicon: Lexicon = self._texts.lexicon

    def sample(self, split_name: SplitName, draw: int = 0, progress: Progress | None = None) -> list[Episode]:
        """Return all episodes of a split, as `draw` does.

        Raises:
            InputError: Too few scenes of the split give an episode.
        """
        episodes = self.draw(split_name, draw, progress)
        # The protocol's own draw has enough scenes by then; another draw adds to it.
        least = MINIMUM_SCENES[split_name] if draw == 0 else 1
        if (found := len({episode.scene for episode in episodes})) < least:
            coverage = Coverage(self._data, self._split, self._protocol)
            remedies = coverage.remedies(self._reselect)
            raise InputError(coverage.explain(split_name, found, f"at least {least} are needed", remedies))
        return episodes

    def draw(self, split_name: SplitName, draw: int = 0, progress: Progress | None = None) -> list[Episode]:
        """Return all episodes of a split, however few, in a fixed order: by scene, then by opening.

        An opening whose window holds no support or no query gives no episode, and so a seasonal scene may have none.

        Args:
            split_name: The split whose scenes are sampled.
            draw: Number of the draw of openings and query users; 0 is the protocol's own.
            progress: Called with (scenes done, scenes in all).
        """
        protocol = self._protocol
        queries = protocol.train_queries if split_name == "train" else protocol.queries
        episodes = []
        for number, scene in enumerate(scenes := self._split.scenes[split_name], start=1):
            rng = np.random.default_rng([protocol.seed, int(scene), *([draw] if draw else [])])
            openings = draw_openings(protocol, self._split, split_name, self._interactions.life(int(scene)), rng)
            sampled = [self.episode(int(scene), opened, queries, rng) for opened in openings]
            episodes += [episode for episode in sampled if episode is not None]
            if progress is not None:
                progress(number, len(scenes))
        return episodes

    def nested(
        self, split_name: SplitName, shots: Sequence[int], progress: Progress | None = None
    ) -> dict[int, list[Episode]]:
        """Return episodes of the same openings and the same queries under supports of several sizes.

        The queries lie after the largest support, so that only the support differs between the sizes. The largest
        sizes are left out until at least half of the split's scenes (and the minimum) have an episode.

        Args:
            split_name: The split whose scenes are sampled.
            shots: Sizes of the support, ascending.
            progress: Called with (sizes done, sizes in all).
        """
        needed = max(MINIMUM_SCENES[split_name], -(-len(self._split.scenes[split_name]) // 2))
        for count in range(len(shots), 0, -1):
            episodes: dict[int, list[Episode]] = {}
            for size in shots[:count]:
                episodes[size] = self._sample_shots(split_name, size, shots[count - 1])
                if progress is not None:
                    progress(len(episodes), count)
            if len({episode.scene for episode in episodes[shots[0]]}) >= needed:
                return episodes
        return {}

    def _sample_shots(self, split_name: SplitName, shots: int, queries_after: int) -> list[Episode]:
        protocol, episodes = self._protocol, []
        for scene in self._split.scenes[split_name]:
            rng = np.random.default_rng([protocol.seed, int(scene)])
            life = self._interactions.life(int(scene))
            for number, opened in enumerate(draw_openings(protocol, self._split, split_name, life, rng)):
                # A generator for each opening: every size of the support draws the same users.
                rng = np.random.default_rng([protocol.seed, int(scene), number])
                episode = self.episode(
                    int(scene), opened, protocol.queries, rng, shots=shots, queries_after=queries_after
                )
                episodes += [] if episode is None else [episode]
        return episodes

    def episode(
        self,
        scene: int,
        opened: int,
        queries: int,
        rng: np.random.Generator,
        *,
        shots: int | None = None,
        queries_after: int | None = None,
    ) -> Episode | None:
        """Return the episode of one opening of a scene, or None if its window holds too few queries.

        Args:
            scene: Scene code.
            opened: Time of the opening, UTC seconds.
            queries: Most query users.
            rng: Generator that draws them.
            shots: Size of the support; the protocol's by default.
            queries_after: Number of interactions that the queries come after; `shots` by default.
        """
        shots = shots or self._protocol.shots
        queries_after = queries_after or shots
        closes = closing_time(self._protocol, self._split, scene, opened)
        fewest = self._protocol.min_queries
        if (found := self._interactions.support_and_later(scene, opened, closes, queries_after, fewest)) is None:
            return None
        window, later = found
        users = np.unique(self._data.user[later])
        if len(users) > queries:
            users = np.sort(rng.choice(users, queries, replace=False))
        return self._assemble(scene, opened, window[:shots], users, later)

    def _assemble(self, scene: int, opened: int, support: Ints, users: Ints, later: Ints) -> Episode:
        """Return the episode of (K,) support rows and (Q,) users, who take the items of the `later` rows."""
        data, history = self._data, self._interactions.history
        candidates = self._texts.candidates(scene)
        adapted = int(data.time[support[-1]])
        # A support user's history ends before the interaction, a query user's when the support is complete.
        length = self._protocol.history
        before = [history(data.user[row], int(data.time[row]), scene, opened) for row in support]
        known = [history(user, adapted + 1, scene, opened) for user in users]
        items, held, counts = _count_items(candidates, [taken[-length:] for taken in (*before, *known)])
        relevant = np.zeros((len(users), len(candidates)), dtype=bool)
        answers = later[np.isin(data.user[later], users)]
        relevant[np.searchsorted(users, data.user[answers]), np.searchsorted(candidates, data.item[answers])] = True
        excluded = np.zeros_like(relevant)
        if self._protocol.repeat == "exclude":
            for row, taken in enumerate(known):
                excluded[row] = np.isin(candidates, taken)
        places = np.searchsorted(candidates, data.item[support])
        texts = self._texts.features(scene)
        return Episode(
            scene=scene,
            opened=opened,
            items=torch.from_numpy(items),
            candidates=len(candidates),
            held=torch.from_numpy(held),
            support=torch.from_numpy(places),
            support_history=torch.from_numpy(counts[: len(support)]),
            query_history=torch.from_numpy(counts[len(support) :]),
            relevant=torch.from_numpy(relevant),
            excluded=torch.from_numpy(excluded),
            elsewhere=(popularity := torch.from_numpy(self._popularity(scene, opened, candidates))),
            elsewhere_total=popularity.sum(0),
            support_past=(support_past := torch.from_numpy(self._past(before, candidates))),
            query_past=(query_past := torch.from_numpy(self._past(known, candidates))),
            support_past_total=support_past.float().sum(1),
            query_past_total=query_past.float().sum(1),
            overlap=torch.from_numpy(overlap(texts.words, places)),
            fields=torch.from_numpy(overlap(texts.fields, places)),
            terms=torch.from_numpy(texts.terms),
            users=torch.from_numpy(users),
            rows=torch.from_numpy(support),
        )

    def _popularity(self, scene: int, opened: int, candidates: Ints) -> npt.NDArray[np.float32]:
        if self._elsewhere is None:
            return np.zeros((len(candidates), 0), dtype=np.float32)
        return self._elsewhere.before(scene, opened, candidates)

    def _past(self, taken: list[Ints], candidates: Ints) -> npt.NDArray[np.uint8]:
        """Return (R, C) how often each candidate is among what each of R users took; (R, 0) where none can be."""
        if self._elsewhere is None:
            return np.zeros((len(taken), 0), dtype=np.uint8)
        counts = np.zeros((len(taken), len(candidates)), dtype=np.uint8)
        for row, items in enumerate(taken):
            codes, times = np.unique(items[np.isin(items, candidates)], return_counts=True)
            counts[row, np.searchsorted(candidates, codes)] = np.minimum(times, MOST_TAKEN)
        return counts


def _count_items(candidates: Ints, histories: list[Ints]) -> tuple[Ints, Ints, npt.NDArray[np.float32]]:
    """Return an episode's (M,) distinct items, candidates first, and histories as counts of those that they hold.

    Args:
        candidates: (C,) item codes, ascending.
        histories: The item codes of each of R users.

    Returns:
        The items, the (H,) positions of those that a history holds, ascending, and the (R, H) counts.
    """
    known, columns = np.unique(np.concatenate(histories), return_inverse=True)
    items = np.concatenate([candidates, np.setdiff1d(known, candidates)])
    sorter = np.argsort(items)
    places = sorter[np.searchsorted(items, known, sorter=sorter)]
    counts = np.zeros((len(histories), len(known)), dtype=np.float32)
    np.add.at(counts, (np.repeat(np.arange(len(histories)), [len(history) for history in histories]), columns), 1)
    order = np.argsort(places)
    return items, places[order], counts[:, order]
