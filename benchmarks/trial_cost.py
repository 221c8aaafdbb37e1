"""Where a trial's time goes: seconds per meta-update and evaluation, against the floor that its matrix products set.

    python benchmarks/trial_cost.py [--quick] [--json FILE]

The study is studies/completejourney.toml at four episodes per update. The floor is the floating-point operations of
all matrix products (counted by torch, forward and backward) over what one large product of this machine reaches,
measured in the same run. The gap between the two is everything else: memory, elementwise work, starting operations.
Evaluation is timed on an eighth of the validation episodes.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch.utils.flop_counter import FlopCounterMode

from storage.files.atomic import atomic_write
from storage.home import cache_folder
from studies.config.hyperparameters import Hyperparameters
from studies.config.spec import load_spec
from studies.learners.registry import RANKING_LEARNERS
from studies.model.device import autocast, device
from studies.training.outer_loop import Trainer
from studies.training.prepare import prepare
from studies.training.problem import Problem

# What a trial of the shipped study does: updates, and evaluations of the validation scenes.
UPDATES, EVALUATIONS = 270, 3
SIZE = 2048


def seconds(work: Callable[[], object]) -> float:
    """Wall clock of some work, on whatever device."""
    started = time.perf_counter()
    work()
    if device().type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def product_rate() -> float:
    """Floating-point operations per second of one large matrix product, in the precision that training uses."""
    a = torch.randn(SIZE, SIZE, device=device())

    def multiply() -> None:
        with autocast():
            a @ a

    multiply()
    return 2 * SIZE**3 / statistics.median(seconds(multiply) for _ in range(5))


def values_of(name: str, layers: int) -> Hyperparameters:
    """A configuration in the middle of the space."""
    inner = {"inner_lr": 0.05, "inner_steps": 3} if RANKING_LEARNERS[name].takes_gradient_steps else {}
    encoder = {"encoder_lr": 3e-5, "train_candidates": 48} if layers else {}
    return Hyperparameters(name, meta_batch_size=4, trainable_layers=layers, **inner, **encoder)


def measure(problem: Problem, name: str, layers: int, updates: int, rate: float) -> dict[str, object]:
    """One row."""
    learner = problem.learner(values_of(name, layers))
    trainer = Trainer(learner, problem.train, UPDATES, seed=0)
    with FlopCounterMode(display=False) as counter:
        learner.meta_step(trainer.batch(0))
    learner.model.zero_grad()
    trainer.train_to(1)
    pace = statistics.median(seconds(lambda: trainer.train_to(trainer.step + 1)) for _ in range(updates))
    part = problem.validation[::8]
    evaluation = seconds(lambda: problem.evaluate(learner, part)) * len(problem.validation) / len(part)
    floor = counter.get_total_flops() / rate
    return {
        "measure": f"{name}, {layers} layers: seconds per update of 4 episodes",
        "ours": pace,
        "peer": "floor of its matrix products",
        "peer_value": floor,
        "ratio": pace / floor,
        "unit": "s",
        "evaluation_seconds": evaluation,
        "trial_seconds": UPDATES * pace + EVALUATIONS * evaluation,
    }


def main() -> None:
    """Measures every learner with a frozen encoder, and with two of its layers training."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the quickstart's scenes, frozen encoder")
    parser.add_argument("--layers", type=int, nargs="+", default=[0, 2], help="numbers of layers that train")
    every = list(RANKING_LEARNERS)
    parser.add_argument("--learners", nargs="+", default=every, choices=every, help="all if left out")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    arguments = parser.parse_args()
    study = "quickstart" if arguments.quick else "completejourney"
    problem = prepare(load_spec(Path("studies", f"{study}.toml")), cache_folder())
    rate = product_rate()
    print(f"one matrix product reaches {rate / 1e9:.0f} GFLOP/s with {torch.get_num_threads()} threads")
    cases = [(name, layers) for layers in ([0] if arguments.quick else arguments.layers) for name in arguments.learners]
    rows = [measure(problem, name, layers, 8 if layers == 0 else 3, rate) for name, layers in cases]
    table = Table("learner", "s/update", "floor", "gap", "s/evaluation", f"trial of {UPDATES}", box=None)
    for (name, layers), row in zip(cases, rows, strict=True):
        figures = [f"{row[key]:.3g}" for key in ("ours", "peer_value", "ratio", "evaluation_seconds", "trial_seconds")]
        table.add_row(f"{name}, {layers} layers", *figures)
    Console(width=120).print(table)
    if arguments.json:
        atomic_write(arguments.json, json.dumps(rows, indent=2).encode())


if __name__ == "__main__":
    main()
