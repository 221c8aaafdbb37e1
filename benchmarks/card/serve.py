"""Serving: p50 and p99 of adapting to five interactions and ranking a catalogue."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from card.figures import Figures
from card.roofline import synchronise
from card.trace import top_operators
from distill.serving.ranking.catalogue import Catalogue
from distill.serving.ranking.items import StudentParts
from studies.config.hyperparameters import Hyperparameters
from studies.learners.registry import LEARNERS
from studies.learners.tasks.scene_tasks import scene_learner
from studies.model.recommender import Head, Recommender
from studies.training.problem import Problem

SHOTS, HISTORY = 5, 20
TARGET_MS = 3.0


def measure(problem: Problem, figures: Figures, device: torch.device, *, quick: bool) -> None:
    """Add p50 and p99 for learners with and without an inner loop.

    Args:
        problem: Gives words and texts; the head is untrained and the vectors are random, which costs the same.
        figures: Where they go.
        device: Where it runs.
        quick: A rehearsal.
    """
    for items in (200,) if quick else (1_000, 100_000):
        for name in ("protonet", "anil") if quick else ("protonet", "anil", "metasgd", "fomaml"):
            label = f"adapt to {SHOTS} shots and rank {items:,} items, {name}"
            with figures.attempt(label):
                request = _request(problem, name, items, device)
                p50, p99 = _percentiles(request, device, 3 if quick else 200 if items <= 1_000 else 30)
                operators = top_operators(request, device)
                figures.add(label, "ms", p50, "target", TARGET_MS, less=True, p99=p99, operators=operators)


def _request(problem: Problem, name: str, items: int, device: torch.device) -> Callable[[], object]:
    """Return one request: a new scene adapted to, its candidates ranked for one user."""
    width, entry = problem.encoder.width, LEARNERS[name]
    inner = {"inner_lr": 0.05, "inner_steps": 3} if entry.takes_gradient_steps else {}
    head = Head(width, learned_rates=entry.learns_inner_rates)
    learner = scene_learner(Recommender(nn.Identity(), head).to(device), Hyperparameters(name, **inner))
    generator = torch.Generator().manual_seed(0)

    def random_vectors(texts: Sequence[str], _: Any) -> torch.Tensor:
        return nn.functional.normalize(torch.randn(len(texts), width, generator=generator), dim=1).to(device)

    parts = StudentParts(
        random_vectors, learner, problem.lexicon, counted=False, products=True, longest_history=HISTORY
    )
    rounds = -(-items // len(problem.data.texts))
    texts = [f"{text}, no. {n}" if n else text for n in range(rounds) for text in problem.data.texts][:items]
    catalogue, rng = Catalogue(parts, texts), np.random.default_rng(0)
    histories = [[texts[item] for item in rng.integers(items, size=HISTORY)] for _ in range(SHOTS + 1)]
    taken = [int(item) for item in rng.integers(items, size=SHOTS)]
    support = list(zip(histories, taken, strict=False))
    return lambda: catalogue.adapt(support).rank([histories[-1]])


def _percentiles(work: Callable[[], object], device: torch.device, times: int) -> tuple[float, float]:
    work()
    seconds = []
    for _ in range(times):
        synchronise(device)
        started = time.perf_counter()
        work()
        synchronise(device)
        seconds.append(time.perf_counter() - started)
    return 1e3 * float(np.median(seconds)), 1e3 * float(np.quantile(seconds, 0.99))
