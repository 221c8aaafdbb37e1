"""Training: meta-training tasks/s beside learn2learn's loop, trials of the search, distillation steps/s."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from peers.cases import CASES, batches, some, systems
from peers.measures import rates

from card.figures import Figures
from card.roofline import synchronise
from card.trace import top_operators
from distill.hyperparameters import StudentHyperparameters
from distill.objective import Distillation, Teacher
from studies.config.hyperparameters import Hyperparameters
from studies.learners.registry import LEARNERS
from studies.training.encoder_setup import trainable_choices
from studies.training.objective import run_trial
from studies.training.problem import Problem
from studies.training.rungs import RungReport

# A trial of 270 updates on two cores of an EPYC without AMX, all of Complete Journey, 2026-11-25 (docs/benchmarks.md).
CPU_SECONDS = {"protonet": 10.0, "anil": 16.0, "fomaml": 24.0, "finetune": 14.0}


def meta_training(
    problem: Problem, installed: Sequence[str], figures: Figures, device: torch.device, *, quick: bool
) -> None:
    """Add tasks/s of first order, second order and ANIL on layers of the encoder, beside the peers that are there."""
    for key in ("minilm-first",) if quick else ("minilm-first", "minilm-second", "d64-anil"):
        case = CASES[key].quicker() if quick else CASES[key]
        label = f"meta-training, {case.learner}, top layers of the encoder"
        with figures.attempt(label):
            layers = max(trainable_choices(problem.spec.search))
            contenders = systems(case, problem, installed, layers)
            drawn = batches(case, some(problem.train, quick))
            found = rates(contenders, drawn, 1 if quick else 9)
            ours, operators = found.pop("ours"), top_operators(partial(contenders["ours"].meta_step, drawn[0]), device)
            for peer, rate in (found or {"no peer is installed": 0.0}).items():
                figures.add(label, "tasks/s", ours, peer, rate, operators=operators)


def trials(problem: Problem, figures: Figures, device: torch.device, *, quick: bool) -> None:
    """Add the seconds of a trial with a frozen encoder, from its start to its last rung."""
    for name in ("protonet",) if quick else tuple(CPU_SECONDS):
        label = f"a trial, {name}, frozen encoder"
        inner = {"inner_lr": 0.1, "inner_steps": 3} if LEARNERS[name].takes_gradient_steps else {}
        reports: list[RungReport] = []
        with figures.attempt(label), tempfile.TemporaryDirectory() as folder:
            synchronise(device)
            started = time.perf_counter()
            recall = run_trial(problem, Hyperparameters(name, **inner), Path(folder), reports.append)
            synchronise(device)
            seconds = (time.perf_counter() - started) / reports[-1].step
            figures.add(
                label, "s per update", seconds, "two CPU cores", CPU_SECONDS[name] / 270, less=True, recall=recall
            )


def distillation(problem: Problem, figures: Figures, device: torch.device) -> None:
    """Add steps/s of distilling one layer: text steps and ranking steps."""
    label = "distillation, one layer"
    with figures.attempt(label), tempfile.TemporaryDirectory() as folder:
        shared = Distillation(problem, [Teacher(0, 0.0, problem.learner(Hyperparameters("protonet")))])
        synchronise(device)
        started = time.perf_counter()
        recall = shared.run_trial(StudentHyperparameters(layers=1), Path(folder), lambda _: None)
        synchronise(device)
        rate = problem.spec.distill.steps / (time.perf_counter() - started)
        figures.add(label, "steps/s", rate, "none", 0.0, recall=recall)
