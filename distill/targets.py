"""What the teachers say, computed once and kept on disk: their vectors and their scores, shared by all trials.

The texts of held-out scenes are never read here: what is scored at the end, the student has not seen.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from storage.files.atomic import atomic_write
from studies.evaluation.evaluate import ItemVectors, encode_items
from studies.learners.base import Learner
from studies.model.device import device
from studies.training.problem import Problem


@dataclass(frozen=True)
class Teacher:
    """A winner of the study.

    Attributes:
        trial: number of its trial.
        recall: its validation recall@K.
        learner: the recommender, meta-trained.
    """

    trial: int
    recall: float
    learner: Learner


@dataclass(frozen=True)
class Targets:
    """What a student is to reproduce.

    Attributes:
        items: (N,) codes of the items that training may read, ascending.
        vectors: (N, D) the best teacher's vectors of these.
        scores: by training episode: (T, Q, C) each teacher's scores after adapting to the episode's support.
        weights: (T,) the teachers' validation recalls.
    """

    items: Tensor
    vectors: Tensor
    scores: Mapping[int, Tensor]
    weights: Tensor

    def of(self, items: Tensor) -> Tensor:
        """(M, D) target vectors of (M,) item codes, all of which must be in `items`."""
        return self.vectors[torch.searchsorted(self.items, items)]

    def ranking(self, episode: int, teachers: int) -> Tensor:
        """(Q, C) mean score of the best so many teachers, weighted by their validation recall.

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
    """Asks the teachers, or reads what they said when these were asked the same before.

    Args:
        problem: the study's data; its reporter is told of the episodes, counted for every teacher.
        teachers: the winners, best first.
        episodes: positions in `problem.train` whose scores are needed.
        folder: where answers are kept; nowhere if left out.
    """
    items, asked = problem.visible_items, sorted(episodes)
    file = None if folder is None else folder / f"targets-{_key(problem, teachers, asked)}.safetensors"
    said = _read(file) if file else None
    if said is None:
        said = _ask(problem, teachers, asked, items)
        if file:
            atomic_write(file, save({name: tensor.contiguous().cpu() for name, tensor in said.items()}))
    scores = {index: said[f"scores.{index}"].to(device()) for index in asked}
    weights = torch.tensor([teacher.recall for teacher in teachers], device=device()).clamp(min=1e-6)
    return Targets(items, said["vectors"].to(device()), scores, weights)


def _ask(problem: Problem, teachers: Sequence[Teacher], asked: Sequence[int], items: Tensor) -> dict[str, Tensor]:
    lengths, reporter = problem.tokens.lengths, problem.reporter
    with reporter.progress("encoding texts with the best teacher") as encoded:
        said = {"vectors": encode_items(teachers[0].learner.model.tower, items, lengths, encoded)}
    scores: dict[int, list[Tensor]] = {index: [] for index in asked}
    episodes = [problem.train[index] for index in asked]
    with reporter.progress("asking the teachers") as progress:
        for number, teacher in enumerate(teachers if asked else []):
            with reporter.progress(f"encoding texts with teacher {teacher.trial}") as encoded:
                vectors = ItemVectors(teacher.learner.model.tower, episodes, lengths, encoded)
            for done, (index, episode) in enumerate(zip(asked, episodes, strict=True), start=1):
                adapted = teacher.learner.adapt(episode, vectors.of(episode))
                with torch.no_grad():
                    scores[index].append(adapted.scores(episode.query_history))
                progress(number * len(asked) + done, len(teachers) * len(asked))
    return said | {f"scores.{index}": torch.stack(each) for index, each in scores.items()}


def _key(problem: Problem, teachers: Sequence[Teacher], asked: Sequence[int]) -> str:
    """Of all that the answers depend on."""
    protocol = problem.spec.protocol.model_dump(mode="json")
    known = [problem.data.fingerprint, problem.encoder.identity, problem.spec.teacher.max_tokens, protocol, list(asked)]
    digest = hashlib.sha256(json.dumps(known).encode())
    for teacher in teachers:
        digest.update(json.dumps([teacher.recall, teacher.learner.hyperparameters.to_dict()]).encode())
        for name, weight in sorted(teacher.learner.model.state_dict().items()):
            digest.update(name.encode() + weight.detach().float().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def _read(file: Path) -> dict[str, Tensor] | None:
    try:
        return load_file(file)
    except (FileNotFoundError, SafetensorError):
        return None
