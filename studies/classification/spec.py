"""The study file of classification."""

from __future__ import annotations

from pydantic import model_validator

from studies.classification.data.sources import LabelledSection
from studies.classification.definition import ClassificationDefinition
from studies.config.spec import StudySpec

# Keys of the protocol that say what an episode of new classes holds.
_OF_EPISODES = ("ways", "shots", "report_shots", "queries", "episodes", "min_groups")


class ClassificationSpec(ClassificationDefinition, StudySpec):
    """A validated study file of classification."""

    data: LabelledSection

    @model_validator(mode="after")
    def _known_without_scenes(self) -> ClassificationSpec:
        if not self.protocol.known:
            return self
        if getattr(self.data, "scene", None) is not None:
            raise ValueError('data.scene has no use where protocol.classes = "known"; leave it out')
        given = self.protocol
        for name in _OF_EPISODES:
            if getattr(given, name) != type(given).model_fields[name].get_default(call_default_factory=True):
                raise ValueError(f'protocol.{name} has no use where protocol.classes = "known"; leave it out')
        return self
