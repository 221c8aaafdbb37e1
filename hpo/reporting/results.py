"""An evaluation as the report reads it: systems in order, the parts they play, and differences paired by scene."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from functools import cached_property
from typing import Any

import numpy as np

from hpo.reporting.blocks import spelled
from studies.evaluation.intervals import bootstrap

Figures = Mapping[str, Any]
POPULARITY = "support popularity"
SIGNED = "{:+.3f}"


class Results:
    """What was measured on the test scenes.

    Attributes:
        evaluation: the part of the document of that name.
        systems: figures by name, best recall first.
    """

    def __init__(self, evaluation: Figures) -> None:
        self.evaluation = evaluation
        self.systems: dict[str, Figures] = dict(
            sorted(evaluation["systems"].items(), key=lambda system: -mean(system[1]["recall"]))
        )

    @property
    def recall(self) -> str:
        """How the metric is called at this cut-off."""
        return f"recall@{self.evaluation['k']}"

    @cached_property
    def popularity(self) -> str | None:
        """The baseline to beat, if it was scored."""
        return POPULARITY if POPULARITY in self.systems else None

    @cached_property
    def teacher(self) -> str | None:
        """The best teacher, if there is one."""
        name = self.evaluation.get("best_teacher")
        return name if name in self.systems else None

    @cached_property
    def direct(self) -> str | None:
        """The best teacher as it ranks a scene without adapting to it."""
        name = f"{self.teacher}, not adapted"
        return name if name in self.systems else None

    @cached_property
    def student(self) -> str | None:
        """The student, if there is one."""
        return next((name for name in self.systems if self.kind(name) == "student"), None)

    def kind(self, name: str) -> str:
        """Baseline, teacher, direct transfer, student, or another."""
        return str(self.systems[name]["kind"]) if name in self.systems else "other"

    def scene_recalls(self, name: str | None) -> dict[str, float]:
        """Recall of each scene that has one."""
        if name is None:
            return {}
        recalls = self.systems[name].get("scene_recalls") or {}
        return {scene: recall for scene, recall in recalls.items() if recall is not None}

    def scene_differences(self, one: str | None, other: str | None) -> dict[str, float]:
        """How far the recall of `one` lies above that of `other` in each scene that has both, by name."""
        left, right = self.scene_recalls(one), self.scene_recalls(other)
        return {scene: left[scene] - right[scene] for scene in sorted(left.keys() & right.keys())}

    def difference(self, one: str | None, other: str | None) -> dict[str, float] | None:
        """How far the recall of `one` lies above that of `other`, paired by scene.

        Returns:
            An interval; None with fewer than two scenes in common, because one scene says nothing about others.
        """
        differences = self.scene_differences(one, other)
        return asdict(bootstrap(np.array(list(differences.values())))) if len(differences) > 1 else None

    def verdict(self, what: str, rival: str, interval: Figures | None) -> str:
        """One sentence on who is better; never more than the interval of the difference allows."""
        if interval is None or self.evaluation["scenes"] < 2:
            return f"{what} cannot be told from {rival}: that takes two scenes or more."
        amount = f"{spelled(interval, SIGNED)} {self.recall}"
        if interval["low"] > 0:
            return f"{what} beats {rival}: {amount}."
        if interval["high"] < 0:
            return f"{what} loses to {rival}: {amount}."
        return f"{what} and {rival} are within the noise of each other: {amount}."


def mean(interval: Figures | None) -> float:
    """The mean, for sorting; what is not defined comes last."""
    return -1.0 if interval is None else float(interval["mean"])


def excludes_zero(interval: Figures | None) -> bool:
    """Whether zero lies outside the interval."""
    return interval is not None and (interval["low"] > 0 or interval["high"] < 0)
