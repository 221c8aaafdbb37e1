"""The distillation's losses: one row each, which the study file, the search and the trainer all read.

A new loss is a row of `LOSSES`, a function in `distill/losses/`, and a test. The study file is validated against the
rows before torch is loaded, so nothing here imports it: `DistillLoss.load` imports the function when a student trains.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, Literal, NamedTuple

from studies.config.search_domains import Domain, Numbers, Range

# The typed batch that a loss reads, of `distill/losses/batches.py`. The text steps give vectors and states, the ranking
# steps vectors and rankings.
Reads = Literal["vectors", "states", "rankings"]
# What the weight of a loss may be; 0 leaves the loss out.
WEIGHT = Numbers(float, 0, True)


class Setting(NamedTuple):
    """A number that a loss takes beside its batch; like the weight a parameter of `[distill.space]`.

    Attributes:
        meaning: What it is, for the reference of the study file.
        allowed: What it may be.
        domain: Its domain unless the study file says otherwise.
        default: Its value in the first student.
    """

    meaning: str
    allowed: Numbers
    domain: Domain
    default: float


@dataclass(frozen=True)
class DistillLoss:
    """One loss of the distillation.

    Attributes:
        meaning: What its weight weighs, for the reference of the study file.
        implementation: The function from a batch and the settings to a scalar, as "module:function".
        reads: What the batch holds.
        domain: The domain of the weight unless the study file says otherwise.
        default: The weight in the first student.
        aligns: Whether the loss draws the student's vectors to the teacher's own, so that the teacher's can stand in
            for them in a ranking step.
        imitates: Whether the loss compares the student with a teacher; otherwise it reads the labels alone.
        settings: What the function takes beside the batch, by name.
    """

    meaning: str
    implementation: str
    reads: Reads
    domain: Domain
    default: float = 0.0
    aligns: bool = False
    imitates: bool = True
    settings: Mapping[str, Setting] = field(default_factory=dict)

    def load(self) -> Callable[..., Any]:
        """Import and return the function."""
        module, name = self.implementation.split(":")
        found: Callable[..., Any] = getattr(import_module(module), name)
        return found


# By the name of the weight in `[distill.space]`, in the order in which the search suggests them. The domains bring the
# terms to one order of magnitude: 1 - cosine of a matched student is near 0.05, a cross-entropy over candidates near 4.
LOSSES: dict[str, DistillLoss] = {
    "embedding": DistillLoss(
        "1 - cosine to the best teacher's vectors",
        "distill.losses.embedding:embedding_loss",
        "vectors",
        Range(low=1.0, high=100.0, log=True),
        10.0,
        aligns=True,
    ),
    "hidden": DistillLoss(
        "the squared difference of hidden states between layers (TinyBERT); of two layers or more",
        "distill.losses.hidden:hidden_loss",
        "states",
        [0.0, 0.1, 1.0],
    ),
    "relational": DistillLoss(
        "the squared difference of the batch's similarities (Gram matrices)",
        "distill.losses.relational:relational_loss",
        "vectors",
        [0.0, 1.0, 10.0],
    ),
    "listwise": DistillLoss(
        "T² · KL to the adapted teachers' ranking of each query's candidates",
        "distill.losses.listwise:listwise_kl",
        "rankings",
        Range(low=0.1, high=10.0, log=True),
        1.0,
        settings={
            "temperature": Setting("T of `listwise`", Numbers(float, 0, False), Range(low=0.5, high=8.0, log=True), 2.0)
        },
    ),
    "margin": DistillLoss(
        "MarginMSE between items that users took and items that they left",
        "distill.losses.margin:margin_mse",
        "rankings",
        0.0,
    ),
    "hard": DistillLoss(
        "the hard loss: the teachers' own training loss on the items that users took",
        "distill.losses.hard:hard_loss",
        "rankings",
        Range(low=0.03, high=3.0, log=True),
        0.3,
        imitates=False,
    ),
}


def text_losses() -> list[str]:
    """Return the names of the losses that train on texts."""
    return [name for name, loss in LOSSES.items() if loss.reads != "rankings"]


def ranking_losses() -> list[str]:
    """Return the names of the losses that train on rankings."""
    return [name for name, loss in LOSSES.items() if loss.reads == "rankings"]


def loss_settings() -> dict[str, Setting]:
    """Return what the losses take beside their batches, by name."""
    return {name: setting for loss in LOSSES.values() for name, setting in loss.settings.items()}


def default_weights() -> dict[str, float]:
    """Return the weight of each loss in the first student."""
    return {name: loss.default for name, loss in LOSSES.items()}


def default_settings() -> dict[str, float]:
    """Return the value of each setting in the first student."""
    return {name: setting.default for name, setting in loss_settings().items()}
