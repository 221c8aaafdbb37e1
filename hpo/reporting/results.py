"""An evaluation as the report reads it: systems in order, the parts they play, and differences paired by scene."""

from __future__ import annotations

from functools import cached_property

import numpy as np

from distill.evaluation import StudyEvaluation
from hpo.reporting.blocks import spelled
from hpo.reporting.task_words import TaskWords, words_of
from studies.evaluation.figures import SystemFigures, SystemsEvaluation
from studies.evaluation.intervals import Interval, bootstrap

SIGNED = "{:+.3f}"


class Results:
    """What was measured on the scenes of a part.

    Args:
        evaluation: Of a whole study, or of its baselines alone.

    Attributes:
        evaluation: As given.
        systems: Figures by name, best recall first.
    """

    def __init__(self, evaluation: SystemsEvaluation) -> None:
        self.evaluation = evaluation
        self.systems: dict[str, SystemFigures] = dict(
            sorted(evaluation.systems.items(), key=lambda system: -system[1].recall.mean)
        )

    @property
    def recall(self) -> str:
        """Return the name of the metric at this cut-off."""
        return self.evaluation.metric

    @cached_property
    def words(self) -> TaskWords:
        """Return what the study's task calls things."""
        return words_of(self.evaluation)

    @cached_property
    def reference(self) -> str | None:
        """Return the baseline to beat, if it was scored."""
        return self.evaluation.reference if self.evaluation.reference in self.systems else None

    @cached_property
    def teacher(self) -> str | None:
        """Return the best teacher, if there is one."""
        return self.evaluation.best_teacher if isinstance(self.evaluation, StudyEvaluation) else None

    @cached_property
    def direct(self) -> str | None:
        """Return the best teacher as it ranks a scene without adapting to it."""
        name = f"{self.teacher}, not adapted"
        return name if name in self.systems else None

    @cached_property
    def student(self) -> str | None:
        """Return the student, if there is one."""
        return next((name for name in self.systems if self.kind(name) == "student"), None)

    @cached_property
    def untrained(self) -> str | None:
        """Return the same student before its first step, if there is one."""
        return next((name for name in self.systems if self.kind(name) == "untrained"), None)

    @cached_property
    def alone(self) -> str | None:
        """Return the same student trained without a teacher, if there is one."""
        return next((name for name in self.systems if self.kind(name) == "labels alone"), None)

    def kind(self, name: str) -> str:
        """Return the kind of a system, as in `SystemFigures`."""
        return self.systems[name].kind if name in self.systems else "other"

    def scene_recalls(self, name: str | None) -> dict[str, float]:
        """Return the recall of each scene that has one."""
        if name is None:
            return {}
        return {scene: recall for scene, recall in self.systems[name].scene_recalls.items() if recall is not None}

    def scene_differences(self, one: str | None, other: str | None) -> dict[str, float]:
        """Return by how much the recall of `one` exceeds that of `other` in each scene that has both, by name."""
        left, right = self.scene_recalls(one), self.scene_recalls(other)
        return {scene: left[scene] - right[scene] for scene in sorted(left.keys() & right.keys())}

    def difference(self, one: str | None, other: str | None) -> Interval | None:
        """Return by how much the recall of `one` exceeds that of `other`, paired by scene.

        Returns:
            An interval; None with fewer than two scenes in common, because one scene says nothing about others.
        """
        differences = self.scene_differences(one, other)
        return bootstrap(np.array(list(differences.values()))) if len(differences) > 1 else None

    def verdict(self, what: str, compared: str, interval: Interval | None) -> str:
        """Return one sentence on which of two is better; never more than the interval of the difference allows."""
        if interval is None or self.evaluation.scenes < 2:
            return f"{what} cannot be told from {compared}: that takes two {self.words.scene}s or more."
        amount = f"{spelled(interval, SIGNED)} {self.recall}"
        if interval.low > 0:
            return f"{what} beats {compared}: {amount}."
        if interval.high < 0:
            return f"{what} loses to {compared}: {amount}."
        return f"{what} and {compared} are within the noise of each other: {amount}."
