"""The teachers' vectors and scores, computed once and kept on disk, shared by all distillation trials.

The texts of held-out scenes are never read here: the student has not seen what is scored at the end.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from storage.files.cache_entries import intact, new_entry
from studies.evaluation.evaluate import ItemVectors, encode_items
from studies.learners.base import Learner
from studies.model.device import device
from studies.training.problem import Problem

_FILE = "targets.safetensors"


@dataclass(frozen=True)
class Teacher:
    """A winner of the study.

    Attributes:
        trial: Number of its trial.
        recall: Its validation recall@K.
        learner: Its meta-trained recommender.
    """

    trial: int
    recall: float
    learner: Learner


@dataclass(frozen=True)
class Targets:
    """What a student is trained to match.

    Attributes:
        items: (N,) codes of the items that training may read, ascending.
        vectors: (N, D) the best teacher's vectors of these.
        scores: By training episode, (T, Q, C) each teacher's scores after adapting to the episode's support.
        weights: (T,) the teachers' validation recalls.
    """

    items: Tensor
    vectors: Tensor
    scores: Mapping[int, Tensor]
    weights: Tensor

    def of(self, items: Tensor) -> Tensor:
        """Return the (M, D) target vectors of (M,) item codes, all of which must be in `items`."""
        return self.vectors[torch.searchsorted(self.items, items)]

    def ranking(self, episode: int, teachers: int) -> Tensor:
        """Return the (Q, C) mean score of the best `teachers`, weighted by their validation recall.

        A softmax of mean scores is one of mean log-softmaxes: the two differ by a constant per query.
        """
        weights = self.weights[:teachers]
        return (self.scores[episode][:teachers] * (weights / weights.sum())[:, None, None]).sum(0)


def compute_targets(
    problem: Problem,
    teachers: Sequence[Teacher],
    episodes: Collection[int],
    folder: Path | None = None,
) -> Targets:
    """Return the targets of a distillation, from disk where the same ones were computed before.

    Args:
        problem: The study's data; its reporter shows the episodes scored, counted for every teacher.
        teachers: The winners, best first.
        episodes: Positions in `problem.train` whose scores are needed.
        folder: Where targets are kept; nowhere if left out.
    """
    items, scored = problem.visible_items, sorted(episodes)
    entry = None if folder is None else folder / f"targets-{_key(problem, teachers, scored)}"
    if entry and intact(entry):
        tensors = load_file(entry / _FILE)
    else:
        tensors = _compute(problem, teachers, scored, items)
        if entry:
            with new_entry(entry) as draft:
                save_file({name: tensor.contiguous().cpu() for name, tensor in tensors.items()}, draft / _FILE)
    scores = {index: tensors[f"scores.{index}"].to(device()) for index in scored}
    weights = torch.tensor([teacher.recall for teacher in teachers], device=device()).clamp(min=1e-6)
    return Targets(items, tensors["vectors"].to(device()), scores, weights)


def _compute(problem: Problem, teachers: Sequence[Teacher], scored: Sequence[int], items: Tensor) -> dict[str, Tensor]:
    lengths, reporter = problem.tokens.lengths, problem.reporter
    with reporter.progress("encoding texts with the best teacher") as encoded:
        tensors = {"vectors": encode_items(teachers[0].learner.model.tower, items, lengths, encoded)}
    scores: dict[int, list[Tensor]] = {index: [] for index in scored}
    episodes = [problem.train[index] for index in scored]
    with reporter.progress("scoring episodes with the teachers") as progress:
        for number, teacher in enumerate(teachers if scored else []):
            with reporter.progress(f"encoding texts with teacher {teacher.trial}") as encoded:
                vectors = ItemVectors(teacher.learner.model.tower, episodes, lengths, encoded)
            for done, (index, episode) in enumerate(zip(scored, episodes, strict=True), start=1):
                found = vectors.of(episode)
                adapted = teacher.learner.adapt(episode, found)
                with torch.no_grad():
                    scores[index].append(adapted.predict(episode, found))
                progress(number * len(scored) + done, len(teachers) * len(scored))
    return tensors | {f"scores.{index}": torch.stack(each) for index, each in scores.items()}


def _key(problem: Problem, teachers: Sequence[Teacher], scored: Sequence[int]) -> str:
    """Return a digest of everything that the targets depend on."""
    protocol = problem.spec.protocol.model_dump(mode="json")
    known = [
        problem.data.fingerprint,
        problem.encoder.identity,
        problem.spec.teacher.max_tokens,
        protocol,
        list(scored),
    ]
    digest = hashlib.sha256(json.dumps(known).encode())
    for teacher in teachers:
        digest.update(json.dumps([teacher.recall, teacher.learner.hyperparameters.to_dict()]).encode())
        for name, weight in sorted(teacher.learner.model.state_dict().items()):
            digest.update(name.encode() + weight.detach().float().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]
