"""The registry of what an encoder is adapted with: one row per objective, without torch.

The study file is validated against the rows. A new objective is a file in `studies/adaptation/objectives/` with its
class, and a row here; settings of its own are keys of `studies.adaptation.section`.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal

# What an objective reads: texts alone; also who took what when; also the labels of training.
Reads = Literal["texts", "log", "labels"]


@dataclass(frozen=True)
class ObjectiveEntry:
    """One objective.

    Attributes:
        name: Its name in study files and reports.
        implementation: Its class, as "module:class".
        reads: What it needs.
        paper: Where it comes from.
        keys: The keys of `[teacher.adapt]` that it reads and others may not.
    """

    name: str
    implementation: str
    reads: Reads
    paper: str
    keys: tuple[str, ...] = ()

    def load(self) -> type[Any]:
        """Import and return its class, a `studies.adaptation.objectives.base.Objective`."""
        module, name = self.implementation.split(":")
        found: type[Any] = getattr(import_module(module), name)
        return found


OBJECTIVES: dict[str, ObjectiveEntry] = {
    entry.name: entry
    for entry in (
        ObjectiveEntry(
            name="mlm",
            implementation="studies.adaptation.objectives.mlm:MaskedWords",
            reads="texts",
            paper="Devlin et al. 2019; Gururangan et al. 2020",
            keys=("mask",),
        ),
        ObjectiveEntry(
            name="contrastive",
            implementation="studies.adaptation.objectives.contrastive:TwoViews",
            reads="texts",
            paper="Gao et al. 2021 (SimCSE)",
            keys=("temperature",),
        ),
        ObjectiveEntry(
            name="cooccurrence",
            implementation="studies.adaptation.objectives.cooccurrence:TakenTogether",
            reads="log",
            paper="Henderson et al. 2017; Barkan & Koenigstein 2016",
            keys=("temperature", "within_days", "same_scene"),
        ),
        ObjectiveEntry(
            name="labels",
            implementation="studies.adaptation.objectives.labels:SameClass",
            reads="labels",
            paper="Khosla et al. 2020",
            keys=("temperature", "per_class"),
        ),
    )
}
