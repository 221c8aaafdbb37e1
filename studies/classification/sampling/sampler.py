"""Draws episodes: N classes of a split, K labelled texts of each as support, and other texts of each as queries.

Every episode is a function of the protocol's seed, the split, the number of the draw and its own number.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from storage.errors import InputError, quoted
from studies.classification.data.dataset import LabelledTexts
from studies.classification.episode import LabelledEpisode
from studies.classification.protocol import ClassificationProtocol
from studies.classification.sampling.pools import pools
from studies.classification.sampling.sides import FREE, QUERY, SUPPORT, divide
from studies.classification.sampling.split import ClassSplit
from studies.data.dataset import Ints
from studies.episodes.split import SPLIT_NAMES, SplitName
from studies.progress import Progress

# Orders of a scene's classes that are tried: where classes share groups, not all of them fit into one episode.
_ORDERS = 20


class _Drawn(NamedTuple):
    """An episode as text codes: (N,) classes, (N, K) support and (N, q) queries."""

    scene: int
    classes: list[int]
    support: Ints
    query: Ints


class LabelledSampler:
    """Samples the episodes of one data set under one protocol.

    Args:
        data: The texts and their labels.
        split: Split of the classes.
        protocol: Definition of an episode.
    """

    def __init__(self, data: LabelledTexts, split: ClassSplit, protocol: ClassificationProtocol) -> None:
        self._data, self._split, self._protocol = data, split, protocol
        self._pools = pools(data)

    def sample(self, split_name: SplitName, draw: int = 0, progress: Progress | None = None) -> list[LabelledEpisode]:
        """Return all episodes of a split: `train_episodes` of training, `episodes` of the others.

        Args:
            split_name: The split whose classes are sampled.
            draw: Number of the draw; 0 is the protocol's own.
            progress: Called with (episodes done, episodes in all).

        Raises:
            InputError: No scene of the split has enough classes.
        """
        protocol, episodes = self._protocol, list[LabelledEpisode]()
        count = protocol.train_episodes if split_name == "train" else protocol.episodes
        choices = self._choices(split_name, protocol.shots)
        self._check(split_name, choices)
        for number in range(count):
            drawn = self._draw(split_name, choices, protocol.shots, draw, number)
            episodes.append(self._assemble(drawn, protocol.shots, _name(draw, number)))
            if progress is not None:
                progress(number + 1, count)
        return episodes

    def nested(
        self, split_name: SplitName, shots: Sequence[int], progress: Progress | None = None
    ) -> dict[int, list[LabelledEpisode]]:
        """Return episodes of the same classes and the same queries under supports of several sizes.

        A smaller support is the beginning of a larger one, so that only what is added differs. The largest sizes are
        left out until at least half of the split's classes have enough texts, and some scene enough of them.

        Args:
            split_name: The split whose classes are sampled.
            shots: Sizes of the support, ascending.
            progress: Called with (episodes done, episodes in all).
        """
        needed = -(-len(self._split.classes[split_name]) // 2)
        for count in range(len(shots), 0, -1):
            most = shots[count - 1]
            choices = self._choices(split_name, most)
            if not choices or len(set().union(*choices.values())) < needed:
                continue
            episodes: dict[int, list[LabelledEpisode]] = {size: [] for size in shots[:count]}
            for number in range(self._protocol.episodes):
                drawn = self._draw(split_name, choices, most, 0, number)
                for size, of_size in episodes.items():
                    of_size.append(self._assemble(drawn, size, _name(0, number)))
                if progress is not None:
                    progress(number + 1, self._protocol.episodes)
            return episodes
        return {}

    def _choices(self, split_name: SplitName, shots: int) -> dict[int, list[int]]:
        """Return the classes of the split that allow so many shots, by scene; scenes with fewer than N are left out."""
        of_split = set(self._split.classes[split_name].tolist())
        choices = {
            scene: [code for code, pool in of_scene.items() if code in of_split and pool.allows(self._protocol, shots)]
            for scene, of_scene in self._pools.items()
        }
        return {scene: codes for scene, codes in choices.items() if len(codes) >= self._protocol.ways}

    def _check(self, split_name: SplitName, choices: dict[int, list[int]]) -> None:
        if choices:
            return
        protocol, of_split = self._protocol, set(self._split.classes[split_name].tolist())
        counts = {
            scene: sum(code in of_split and pool.allows(protocol, protocol.shots) for code, pool in of_scene.items())
            for scene, of_scene in self._pools.items()
        }
        scene = max(counts, key=lambda scene: (counts[scene], -scene))
        name = quoted(self._data.scenes[scene]) if self._data.scenes else "all data"
        lower = f"lower protocol.ways to {counts[scene]}, change" if counts[scene] > 1 else "change"
        raise InputError(
            f"no scene has protocol.ways = {protocol.ways} {split_name} classes with {protocol.shots} + "
            f"{protocol.queries} texts of different groups; {name} has {counts[scene]}, no other has more: {lower} "
            "protocol.split, or leave data.scene out, so that classes of all scenes make an episode"
        )

    def _draw(self, split_name: SplitName, choices: dict[int, list[int]], shots: int, draw: int, number: int) -> _Drawn:
        rng = np.random.default_rng([self._protocol.seed, SPLIT_NAMES.index(split_name), draw, number])
        for _ in range(_ORDERS):
            scene = list(choices)[rng.integers(len(choices))]
            if (drawn := self._draw_scene(scene, rng.permutation(choices[scene]), shots, rng)) is not None:
                return drawn
        raise InputError(
            f"no {self._protocol.ways} {split_name} classes of one scene were found that share no group between the "
            f"support of one and the queries of another, in {_ORDERS} tries; lower protocol.ways, name a finer column "
            "in data.group, or leave it out"
        )

    def _draw_scene(self, scene: int, order: Ints, shots: int, rng: np.random.Generator) -> _Drawn | None:
        """Return N classes of a scene in the given order, or None where too few of them fit together."""
        nameless = len(self._data.groups)  # the place of all texts without a group, which is never fixed
        sides = np.full(nameless + 1, FREE)
        classes: list[int] = []
        support: list[Ints] = []
        query: list[Ints] = []
        for code in order.tolist():
            pool = self._pools[scene][code]
            groups = np.minimum(pool.groups, nameless)
            side = divide(pool.sizes, sides[groups], shots, self._protocol.queries, rng)
            if side is None:
                continue
            sides[groups] = np.where(side, SUPPORT, QUERY)
            sides[nameless] = FREE
            classes.append(code)
            of_support = side[pool.group]
            support.append(rng.choice(pool.texts[of_support], shots, replace=False))
            query.append(rng.choice(pool.texts[~of_support], self._protocol.queries, replace=False))
            if len(classes) == self._protocol.ways:
                return _Drawn(scene, classes, np.stack(support), np.stack(query))
        return None

    def _assemble(self, drawn: _Drawn, shots: int, name: str) -> LabelledEpisode:
        """Return the episode with the first `shots` texts of each class as its support."""
        support, query, names = drawn.support[:, :shots], drawn.query, self._data.names[drawn.classes]
        ways = len(drawn.classes)
        items, places = np.unique(np.concatenate([support.ravel(), query.ravel(), names]), return_inverse=True)
        ends = [support.size, support.size + query.size]
        of_support, of_query, of_names = map(torch.from_numpy, np.split(places, ends))
        return LabelledEpisode(
            name=name,
            classes=torch.tensor(drawn.classes),
            items=torch.from_numpy(items),
            support=of_support,
            support_labels=torch.arange(ways).repeat_interleave(shots),
            query=of_query,
            query_labels=torch.arange(ways).repeat_interleave(query.shape[1]),
            names=of_names,
            scene=drawn.scene,
        )


def _name(draw: int, number: int) -> str:
    return f"episode {number}" + (f" of draw {draw}" if draw else "")
