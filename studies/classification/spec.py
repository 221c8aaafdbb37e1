"""The study file of classification."""

from __future__ import annotations

from typing import Any

from pydantic import model_validator

from studies.classification.data.sources import LabelledSection, names_scenes
from studies.classification.definition import ClassificationDefinition
from studies.config.spec import StudySpec


class ClassificationSpec(ClassificationDefinition, StudySpec):
    """A validated study file of classification."""

    data: LabelledSection

    @model_validator(mode="before")
    @classmethod
    def _scenes(cls, values: Any) -> Any:
        """Let known classes be adapted to in scenes where the data have any."""
        protocol = values.get("protocol")
        if not (isinstance(protocol, dict) and protocol.get("classes") == "known"):
            return values
        named = names_scenes(values.get("data"))
        if protocol.get("scenes", named) != named:
            raise ValueError(f"protocol.scenes = {str(named).lower()} follows from data.scene; leave it out")
        return values | {"protocol": protocol | {"scenes": named}}
