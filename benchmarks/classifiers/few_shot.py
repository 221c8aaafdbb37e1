"""Systems that adapt to an episode, what each needed for it, and the choice among settings on validation episodes."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from classifiers.journal import Journal
from studies.classification.data.dataset import LabelledTexts
from studies.classification.episode import LabelledEpisode
from studies.classification.scoring.metrics import macro_recall

Predict = Callable[[], Tensor]


class FewShot(Protocol):
    """A system that adapts to the support of an episode."""

    def adapt(self, episode: LabelledEpisode) -> Predict:
        """Adapt, from labelled texts to what can classify; return the function that gives (Q,) classes in 0..N-1."""


@dataclass(frozen=True)
class Texts:
    """An episode as a library of text classification takes it.

    Attributes:
        support: Its labelled texts.
        labels: Their classes, in 0..N-1.
        queries: The texts to classify.
        names: Names of the classes.
    """

    support: list[str]
    labels: list[int]
    queries: list[str]
    names: list[str]


def as_texts(data: LabelledTexts, episode: LabelledEpisode) -> Texts:
    """The texts of an episode."""
    texts = [data.texts[item] for item in episode.items.tolist()]
    support, queries, names = (
        [texts[place] for place in places.tolist()] for places in (episode.support, episode.query, episode.names)
    )
    return Texts(support, episode.support_labels.tolist(), queries, names)


def measure(system: FewShot, episode: LabelledEpisode) -> dict[str, float]:
    """Macro recall on an episode's queries, and the seconds that adapting took: on the clock, and of the CPU.

    The CPU's are of all threads of this process. Beside other work they say more than the clock's.
    """
    wall, cpu = time.perf_counter(), time.process_time()
    predict = system.adapt(episode)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    with torch.no_grad():
        found = predict().cpu().numpy()
    recall = macro_recall(episode.query_labels.cpu().numpy(), found)
    return {"recall": recall, "seconds": wall, "cpu_seconds": cpu}


def record(
    journal: Journal, part: str, shots: int, systems: Mapping[str, FewShot], episodes: Sequence[LabelledEpisode]
) -> None:
    """Measure all systems on each episode in turn, as far as they are not recorded.

    Args:
        journal: Keeps the records, by (part, shots, system, episode).
        part: "test" or "validation".
        shots: Labelled texts of each class.
        systems: By name.
        episodes: The episodes, whose names differ.
    """
    for done, episode in enumerate(episodes, start=1):
        for name, system in systems.items():
            key = (part, shots, name, episode.name)
            if journal.get(key) is None:
                found = journal.add(key, measure(system, episode))
                print(
                    f"{part}, {shots} shots, {done} of {len(episodes)}: {name} {found['recall']:.2f}, "
                    f"{found['cpu_seconds']:.2f} s",
                    flush=True,
                )


def recorded(journal: Journal, part: str, shots: int, system: str, episodes: Sequence[str], figure: str) -> np.ndarray:
    """A figure of a system on episodes, in their order; NaN where it is not recorded.

    Pairs of systems are compared over the same names: what is missing for one of them is left out for both.
    """
    found = [journal.get((part, shots, system, name)) for name in episodes]
    return np.array([np.nan if one is None else one[figure] for one in found], dtype=float)


def choose(
    journal: Journal,
    shots: int,
    candidates: Mapping[str, FewShot],
    episodes: Sequence[LabelledEpisode],
    kept: int = 3,
) -> str:
    """The best of some settings on validation episodes: all on the first half, the best few on all of them.

    Args:
        journal: Keeps what was measured.
        shots: Labelled texts of each class.
        candidates: The system under each setting, by a name that says the setting.
        episodes: Validation episodes.
        kept: How many go on to the second half.
    """
    names, half = [episode.name for episode in episodes], -(-len(episodes) // 2)

    def mean(name: str, count: int) -> float:
        return float(recorded(journal, "validation", shots, name, names[:count], "recall").mean())

    record(journal, "validation", shots, candidates, episodes[:half])
    best = sorted(candidates, key=lambda name: -mean(name, half))[:kept]
    record(journal, "validation", shots, {name: candidates[name] for name in best}, episodes[half:])
    return max(best, key=lambda name: mean(name, len(episodes)))
