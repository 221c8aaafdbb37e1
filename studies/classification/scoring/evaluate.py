"""Evaluates a system on episodes of classification; learners, baselines and students all go through `evaluate`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from torch import Tensor

from studies.classification.episode import LabelledEpisode
from studies.classification.scoring.metrics import EpisodeMetrics, average, episode_metrics
from studies.evaluation.metrics import Evaluation
from studies.progress import Progress

# Takes each episode and its (Q, N) logits, as `metrics.Predictions.add` does.
LogitsReader = Callable[[LabelledEpisode, Tensor], None]


class Classifying(Protocol):
    """Anything that classifies an episode's queries, given its support."""

    def logits(self, episode: LabelledEpisode) -> Tensor:
        """Return (Q, N) finite logits; they must not depend on `episode.query_labels`."""


def evaluate(
    system: Classifying,
    episodes: Sequence[LabelledEpisode],
    name: Callable[[LabelledEpisode], str] = lambda episode: episode.name,
    progress: Progress | None = None,
    read: LogitsReader | None = None,
) -> Evaluation:
    """Return the metrics of a system on some episodes, averaged over those of one name.

    Args:
        system: Classifies the queries.
        episodes: The episodes, each with a name of its own.
        name: Gives what recalls are recorded by: the episode's own name, or its scene's.
        progress: Called with (episodes done, episodes in all).
        read: Called with each episode and its logits.

    Raises:
        FloatingPointError: A logit of the system is not finite.
    """
    found: dict[str, list[EpisodeMetrics]] = {}
    for number, episode in enumerate(episodes, start=1):
        logits = system.logits(episode)
        if not bool(logits.isfinite().all()):
            raise FloatingPointError(f"a logit of {episode.name} is not finite")
        found.setdefault(name(episode), []).append(episode_metrics(logits, episode))
        if read is not None:
            read(episode, logits)
        if progress is not None:
            progress(number, len(episodes))
    assert len({episode.name for episode in episodes}) == len(episodes), "two episodes have the same name"
    return Evaluation({scene: average(metrics) for scene, metrics in found.items()})
