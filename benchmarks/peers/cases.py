"""What is compared: which learner on which data, and the systems that meta-train it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch

from peers.libraries import PEERS, Learn2Learn
from studies.config.hyperparameters import Hyperparameters
from studies.episodes.episode import Episode
from studies.model.recommender import Recommender
from studies.training.problem import Problem

INNER_LR = 0.1


class System(Protocol):
    """Ours or a peer's: what `studies.training.outer_loop.Trainer` takes."""

    model: Recommender
    hyperparameters: Any

    def meta_step(self, episodes: Sequence[Any]) -> float:
        """Adds the outer gradient to the model's `.grad`; returns the loss."""


@dataclass(frozen=True)
class Case:
    """One comparison.

    Attributes:
        title: what is compared.
        data: "d64" or "minilm" of `peers.problems`.
        learner: which learner.
        steps: of the inner loop.
        batch: episodes per meta-update.
        target: how many times the fastest peer's tasks/s are hoped for.
        prefix: our cached layers against all of the encoder, instead of two layers that train in every system.
    """

    title: str
    data: str
    learner: str
    steps: int
    batch: int
    target: float
    prefix: bool = False

    def quicker(self) -> Case:
        """The same in little time; the figures are then of a try, not of a measurement."""
        return self if self.data == "d64" else replace(self, batch=1, steps=1)

    @property
    def hyperparameters(self) -> Hyperparameters:
        """Two layers of the encoder train."""
        return Hyperparameters(
            self.learner, meta_batch_size=self.batch, trainable_layers=2, inner_lr=INNER_LR, inner_steps=self.steps
        )


CASES = {
    "d64-first": Case("d64, first order", "d64", "fomaml", 3, 16, 2.0),
    "d64-second": Case("d64, second order", "d64", "maml", 3, 16, 2.0),
    "d64-anil": Case("d64, ANIL", "d64", "anil", 3, 16, 3.0),
    "minilm-first": Case("MiniLM, top 2 layers, first order", "minilm", "fomaml", 2, 4, 1.1),
    "minilm-second": Case("MiniLM, top 2 layers, second order", "minilm", "maml", 2, 2, 1.1),
    "minilm-prefix": Case("MiniLM, frozen prefix", "minilm", "fomaml", 2, 4, 10.0, prefix=True),
}


def problem_of(case: Case, quick: bool) -> Problem:
    """The data of a case."""
    # A machine that `benchmarks/gpu.py` runs on has no source of data.
    from peers import problems

    return problems.d64() if case.data == "d64" else problems.minilm(quick)


def systems(case: Case, problem: Problem, installed: Sequence[str], layers: int = 2) -> dict[str, System]:
    """Ours and the peers, by name; they share one model, whose weights nothing here moves.

    Args:
        case: The comparison.
        problem: The data.
        installed: Names of the peers that are there.
        layers: Of the encoder, that train in every system.
    """
    if case.prefix:
        return _prefix_systems(case.hyperparameters, problem, installed)
    values = replace(case.hyperparameters, trainable_layers=layers)
    ours = problem.learner(values)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():  # away from zero, so that no gradient vanishes by symmetry
        for parameter in ours.model.head.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator).to(parameter)
    largest = max(episode.candidates for episode in problem.train)
    found = [peer for peer in PEERS if peer.name in installed]
    return {"ours": ours} | {peer.name: peer(ours.model, values, largest) for peer in found}


def _prefix_systems(values: Hyperparameters, problem: Problem, installed: Sequence[str]) -> dict[str, System]:
    """Ours with none and one layer of the encoder training, and learn2learn with all of them, each with its model."""
    from peers import problems

    made: dict[str, System] = {
        f"ours, {layers} layers": problem.learner(replace(values, trainable_layers=layers)) for layers in (0, 1)
    }
    if Learn2Learn.name in installed:
        largest = max(episode.candidates for episode in [*problem.train, *problem.validation])
        made["learn2learn, all layers"] = Learn2Learn(problems.all_layers(problem, values), values, largest)
    return made


def some(episodes: Sequence[Episode], quick: bool, count: int | None = None) -> list[Episode]:
    """The smallest four where it must be quick; else all, or so many of them, spread over the scenes."""
    if quick:
        return sorted(episodes, key=lambda episode: len(episode.items))[:4]
    return list(episodes[:: max(1, len(episodes) // (count or len(episodes)))])


def batches(case: Case, episodes: Sequence[Episode]) -> list[list[Episode]]:
    """Meta-batches that differ, the same for every system and run."""
    rng = np.random.default_rng(0)
    size = min(case.batch, len(episodes))
    drawn = [rng.choice(len(episodes), size, replace=False) for _ in range(30)]
    return [[episodes[i] for i in numbers] for numbers in drawn]
