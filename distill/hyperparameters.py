"""The values one distillation trial trains with, and the ranges a study searches them in.

Imports nothing heavy; `distill/objective.py` runs what these describe.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, cast, get_args

if TYPE_CHECKING:
    import optuna

Init = Literal["alternate", "first", "last"]


@dataclass(frozen=True)
class StudentHyperparameters:
    """One point of the distillation's search space; the defaults are a sound first trial to enqueue.

    Attributes:
        init: which of the teacher's layers the student starts from (`distill/student.py`).
        temperature: T that softens both rankings in the soft loss.
        soft_weight: weight of the soft loss, T² · KL to the teachers' ranking.
        hard_weight: weight of the hard loss, cross-entropy of what users really took.
        embed_weight: weight of embedding matching beside the two; alone before them.
        lr: peak learning rate (AdamW).
    """

    init: Init = "alternate"
    temperature: float = 2.0
    soft_weight: float = 1.0
    hard_weight: float = 0.3
    embed_weight: float = 10.0
    lr: float = 3e-4


def suggest(trial: optuna.Trial) -> StudentHyperparameters:
    """Draws a point: T log-uniform in 0.5-8, the loss weights and the learning rate log-uniform.

    The weights' ranges bring the three terms to one order of magnitude: 1 − cosine of a matched student is near
    0.05, a cross-entropy over candidates near 4.
    """
    return StudentHyperparameters(
        init=cast(Init, trial.suggest_categorical("init", get_args(Init))),
        temperature=trial.suggest_float("temperature", 0.5, 8, log=True),
        soft_weight=trial.suggest_float("soft_weight", 0.1, 10, log=True),
        hard_weight=trial.suggest_float("hard_weight", 0.03, 3, log=True),
        embed_weight=trial.suggest_float("embed_weight", 1, 100, log=True),
        lr=trial.suggest_float("lr", 5e-5, 1e-3, log=True),
    )
