"""Draws the episodes of known classes in scenes: labelled rows of one scene to adapt to, and later ones to classify.

Every episode is a function of the protocol's seed, the split, the number of the draw and its own number.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from storage.errors import InputError
from studies.classification.data.dataset import LabelledTexts
from studies.classification.episode import LabelledEpisode
from studies.classification.protocol import ClassificationProtocol
from studies.classification.scenes.split import SceneSplit
from studies.data.dataset import Ints
from studies.episodes.split import MINIMUM_SCENES, SPLIT_NAMES, SplitName
from studies.progress import Progress


class SceneSampler:
    """Samples the episodes of one data set under one protocol.

    The support is the first `shots` rows of each class after an opening, of those in the first half of the scene's
    rows from there on; a class that has fewer there gives what it has. The query is later than all of the support, and
    shares no group with it. Without times, rows come in a random order.

    Args:
        data: The texts and their labels.
        split: Split of the scenes.
        protocol: Definition of an episode.
    """

    def __init__(self, data: LabelledTexts, split: SceneSplit, protocol: ClassificationProtocol) -> None:
        self._data, self._split, self._protocol = data, split, protocol
        self._timed = split.until is not None

    def sample(self, split_name: SplitName, draw: int = 0, progress: Progress | None = None) -> list[LabelledEpisode]:
        """Return all episodes of a split, its scenes in turn: `train_episodes` of training, `episodes` of the others.

        Args:
            split_name: The split whose scenes are sampled.
            draw: Number of the draw; 0 is the protocol's own, in which the first episode of a scene opens where the
                scene starts.
            progress: Called with (episodes done, episodes in all).

        Raises:
            InputError: Too few scenes have an episode.
        """
        shots, own = self._protocol.shots, self._split.scenes[split_name]
        scenes = self.scenes(split_name, shots)
        if (few := len(scenes)) < MINIMUM_SCENES[split_name]:
            raise InputError(
                f"{few} of {len(own)} {split_name} scenes have rows to adapt to and later ones of two classes to "
                f"classify; at least {MINIMUM_SCENES[split_name]} are needed: lower protocol.shots (now {shots}), "
                "change protocol.split, or name a column with larger scenes in data.scene"
            )
        return self._sample(split_name, scenes, [shots], draw, progress)[shots]

    def nested(
        self, split_name: SplitName, shots: Sequence[int], progress: Progress | None = None
    ) -> dict[int, list[LabelledEpisode]]:
        """Return episodes with the same queries under supports of several sizes, each the beginning of the next.

        A size is left out where it adds nothing to the next smaller one in more than half of the episodes, or leaves
        more than half of the scenes without queries.

        Args:
            split_name: The split whose scenes are sampled.
            shots: Sizes of the support, ascending.
            progress: Called with (episodes done, episodes in all).
        """
        for count in range(len(shots), 0, -1):
            scenes = self.scenes(split_name, shots[count - 1])
            if 2 * len(scenes) < len(self._split.scenes[split_name]):
                continue
            found = self._sample(split_name, scenes, shots[:count], 0, progress)
            smaller = found[shots[count - 2]] if count > 1 else []
            grown = sum(len(a.support) < len(b.support) for a, b in zip(smaller, found[shots[count - 1]], strict=False))
            if 2 * grown >= len(smaller):
                return found
        return {}

    def _sample(
        self,
        split_name: SplitName,
        scenes: Sequence[int],
        shots: Sequence[int],
        draw: int,
        progress: Progress | None,
    ) -> dict[int, list[LabelledEpisode]]:
        training = split_name == "train"
        count = self._protocol.train_episodes if training else max(self._protocol.episodes, len(scenes))
        found: dict[int, list[LabelledEpisode]] = {size: [] for size in shots}
        for number in range(count):
            rng = np.random.default_rng([self._protocol.seed, SPLIT_NAMES.index(split_name), draw, number])
            scene = scenes[number % len(scenes)]
            at_start = draw == 0 and number < len(scenes)
            support, query = self._divide(split_name, scene, shots[-1], rng, at_start=at_start)
            if self._classes(query) < 2:  # then as `scenes` found that there are two
                support, query = self._divide(split_name, scene, shots[-1], np.random.default_rng(0), at_start=True)
            query = self._some(query, rng, training=training)
            name = f"scene {self._data.scenes[scene]}, episode {number}" + (f" of draw {draw}" if draw else "")
            for size, episodes in found.items():
                own = np.concatenate([each[:size] for each in support])
                episodes.append(self._assemble(name, scene, own, query, named=not training))
            if progress is not None:
                progress(number + 1, count)
        return found

    def scenes(self, split_name: SplitName, shots: int) -> list[int]:
        """Return the codes of the split's scenes that have an episode: those with queries of two classes."""
        return [
            scene
            for scene in self._split.scenes[split_name].tolist()
            if self._classes(self._divide(split_name, scene, shots, np.random.default_rng(0), at_start=True)[1]) > 1
        ]

    def _classes(self, rows: Ints) -> int:
        return len(np.unique(self._data.label[rows]))

    def _divide(
        self, split_name: SplitName, scene: int, shots: int, rng: np.random.Generator, *, at_start: bool
    ) -> tuple[list[Ints], Ints]:
        """Return the rows of each class in the support, the earliest first, and all rows that may be queries."""
        data, rows = self._data, self._split.rows[split_name]
        rows = rng.permutation(rows[data.scene[rows] == scene])
        rows = rows[np.argsort(data.time[rows], kind="stable")]  # rows of one time are in a random order
        if self._timed and not at_start:
            rows = rows[rng.integers(len(rows) // 2 + 1) :]
        first = rows[: -(-len(rows) // 2)]
        support = [first[data.label[first] == code][:shots] for code in self._split.classes["train"]]
        taken = np.concatenate(support)
        rest = rows[~np.isin(rows, taken)]
        if self._timed and len(taken):
            rest = rest[data.time[rest] > data.time[taken].max()]
        groups = np.setdiff1d(data.group[taken], [-1])
        return support, rest[~np.isin(data.group[rest], groups)]

    def _some(self, rows: Ints, rng: np.random.Generator, *, training: bool) -> Ints:
        """Return as many of the rows as an episode classifies: in training of all classes alike, unless it is natural.

        In evaluation they are in their proportions, but every class that has a row has a query.
        """
        protocol, classes = self._protocol, self._split.classes["train"]
        size = protocol.batch if training else protocol.queries * len(classes)
        rows = rng.permutation(rows)
        label = self._data.label[rows]
        members = label[:, None] == classes
        earlier = (members.cumsum(0) * members).sum(1) - 1  # rows of the same class before each
        balanced = training and protocol.sampling == "balanced"
        order = np.argsort(earlier if balanced else earlier > 0, kind="stable")
        return rows[order[:size]]

    def _assemble(self, name: str, scene: int, support: Ints, query: Ints, *, named: bool) -> LabelledEpisode:
        """Return the episode; training reads no names of classes, so that it need not encode them."""
        data, classes = self._data, self._split.classes["train"]
        names = data.names[classes] if named else np.empty(0, dtype=np.int64)
        items, places = np.unique(np.concatenate([data.text[support], data.text[query], names]), return_inverse=True)
        ends = [len(support), len(support) + len(query)]
        of_support, of_query, of_names = map(torch.from_numpy, np.split(places, ends))
        return LabelledEpisode(
            name=name,
            classes=torch.from_numpy(classes),
            items=torch.from_numpy(items),
            support=of_support,
            support_labels=torch.from_numpy(np.searchsorted(classes, data.label[support])),
            query=of_query,
            query_labels=torch.from_numpy(np.searchsorted(classes, data.label[query])),
            names=of_names,
            scene=scene,
        )
