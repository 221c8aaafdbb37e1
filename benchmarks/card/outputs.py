"""What a device computes on every path from tokens to lists, to be compared with what another computes.

A process computes on one device in one precision: with `CUDA_VISIBLE_DEVICES=` the same code runs on the CPU.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path

import torch
from torch import Tensor

from card.pack import read
from card.served import K, exported, served, with_random_head
from distill.hyperparameters import StudentHyperparameters
from distill.objective import Distillation, Teacher, load_student
from distill.objective import evaluate as evaluate_student
from studies.config.hyperparameters import Hyperparameters
from studies.evaluation.metrics import top_k
from studies.learners.registry import RANKING_LEARNERS
from studies.model.device import full_precision, override_settings
from studies.training.encoder_setup import trainable_choices
from studies.training.objective import load_teacher, run_trial
from studies.training.problem import Problem
from studies.training.rungs import RungReport

TEXTS, EPISODES = 2048, 4
# Training is compared after a few steps: rounding errors grow with every one.
RUNGS, STEPS = [2, 4], {"embed_steps": 4, "rank_steps": 2}
# The largest error of an output, by the precision that the device computes in and by a word of the output's name, the
# first that fits; the reference is in fp32. Recalls move in steps of one item. Measured with MiniLM on a CPU in bf16:
# a twentieth to a half of these.
BOUNDS = {
    "fp32": {"lists": 0.0, "bf16": 2e-2, "fp16": 4e-3, "trial": 1e-2, "recalls": 1e-2, "": 1e-4},
    "bf16": {"lists": 2e-2, "gradient": 1e-1, "": 2e-2},
}


def outputs(pack: Path, folder: Path, precision: str) -> dict[str, Tensor]:
    """Return everything that is compared, by name, in fp32 on the CPU.

    Args:
        pack: The file.
        folder: For what it holds, and what is written.
        precision: "fp32", or "bf16" for products in bf16 wherever the device may be used so.
    """
    mode: AbstractContextManager[object] = full_precision() if precision == "fp32" else override_settings(bf16=True)
    with mode:
        problem = read(pack, folder)
        problem.spec = problem.spec.model_copy(
            update={
                "pruner": problem.spec.pruner.model_copy(update={"rungs": RUNGS}),
                "distill": problem.spec.distill.model_copy(update=STEPS),
            }
        )
        found = {"vectors": problem.cache.pooled()[:TEXTS].clone()}
        for learner in RANKING_LEARNERS:
            for trained in (0, max(trainable_choices(problem.spec.search))):
                found |= _learner(problem, learner, trained)
        found |= _trial(problem) | _student(problem) | served(problem, exported(problem, folder / "export"))
    return {name: tensor.detach().float().cpu().contiguous() for name, tensor in found.items()}


def beyond(precision: str, ours: Mapping[str, Tensor], reference: Mapping[str, Tensor]) -> dict[str, float]:
    """Return the errors beyond their bound, by output; the reference is in fp32."""
    return {name: error for name, error in errors(ours, reference) if not error <= _bound(precision, name)}


def _bound(precision: str, name: str) -> float:
    return next(bound for kind, bound in BOUNDS[precision].items() if kind in name)


def errors(ours: Mapping[str, Tensor], reference: Mapping[str, Tensor]) -> Iterator[tuple[str, float]]:
    """Yield each output's error: of lists the part that differs, of all else relative to the largest value."""
    for name, wanted in reference.items():
        found = ours[name]
        if "lists of" in name:
            common = [len(set(a.tolist()) & set(b.tolist())) / len(b) for a, b in zip(found, wanted, strict=True)]
            yield name, 1 - sum(common) / len(common)
        else:
            yield name, float((found - wanted).abs().max() / wanted.abs().max().clamp(min=1e-12))


def _values(learner: str, layers: int) -> Hyperparameters:
    inner = {"inner_lr": 0.05, "inner_steps": 2} if RANKING_LEARNERS[learner].takes_gradient_steps else {}
    return Hyperparameters(learner, trainable_layers=layers, encoder_lr=1e-4 if layers else None, **inner)


def _learner(problem: Problem, name: str, layers: int) -> dict[str, Tensor]:
    """Return a learner's loss and gradient on a meta-batch, and its scores and lists after adapting to an episode."""
    learner, label = with_random_head(problem.learner(_values(name, layers))), f"{name}, {layers} layers"
    loss = learner.meta_step(problem.train[:EPISODES])
    gradients = [p.grad.flatten() for _, p in sorted(learner.model.named_parameters()) if p.grad is not None]
    episode, tower = problem.validation[0], learner.model.tower
    with torch.no_grad():
        candidates = tower(episode.items[: episode.candidates])
        vectors = torch.cat([candidates, tower.locked[episode.items[episode.candidates :]]])
    scores = learner.adapt(episode, vectors).scores(episode.query_history)
    return {
        f"loss of {label}": torch.tensor([loss]),
        f"gradient of {label}": torch.cat(gradients),
        f"scores of {label}": scores,
        f"lists of {label}": top_k(scores, min(K, scores.shape[1])),
    }


class _Stop(Exception):
    """Ends a trial after its first rung."""


def _trial(problem: Problem) -> dict[str, Tensor]:
    """Return a trial's recalls at its rungs, run to the end and resumed from its first checkpoint."""
    return {"trial": _recalls(problem, stop=False), "resumed trial": _recalls(problem, stop=True)}


def _recalls(problem: Problem, *, stop: bool) -> Tensor:
    recalls: dict[int, float] = {}

    def report(reached: RungReport) -> None:
        first = reached.rung not in recalls
        recalls[reached.rung] = reached.recall
        if stop and first and reached.rung == 0:
            raise _Stop

    values = _values("anil", 0)
    with tempfile.TemporaryDirectory() as folder:
        try:
            run_trial(problem, values, Path(folder), report)
        except _Stop:
            run_trial(problem, values, Path(folder), report)
        assert load_teacher(problem, Path(folder)).hyperparameters == values
    return torch.tensor([recall for _, recall in sorted(recalls.items())])


def _student(problem: Problem) -> dict[str, Tensor]:
    """Return a distilled student's vectors, and its recall by scene."""
    teacher = Teacher(0, 0.0, problem.learner(Hyperparameters("protonet")))
    with tempfile.TemporaryDirectory() as folder:
        Distillation(problem, [teacher]).run_trial(StudentHyperparameters(layers=1), Path(folder), lambda _: None)
        student = load_student(problem, Path(folder))
    with torch.no_grad():
        vectors = student.tower(torch.arange(min(256, len(problem.tokens))))
    recalls = evaluate_student(student, problem, problem.validation).values("recall")
    return {"student": vectors, "student's recalls": torch.from_numpy(recalls)}
