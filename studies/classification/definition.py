"""A classification study without its data: labels of texts, from a few labelled texts of each class."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import model_validator

from studies.adaptation.section import ClassificationAdapt
from studies.classification.protocol import ClassificationProtocol
from studies.classification.search_space import SEARCHED, default_space
from studies.config.definition import StudyDefinition, TeacherSection
from studies.config.hyperparameters import INNER_LOOP
from studies.config.search_domains import Domain, Parameters, values_of
from studies.config.search_section import SearchSection
from studies.learners.registry import CLASSIFICATION_LEARNERS

# The learners that train on all classes jointly: they need no support.
_JOINT = [name for name, entry in CLASSIFICATION_LEARNERS.items() if entry.baseline]


class ClassificationSearch(SearchSection):
    """The search of a classification study: parameters and learners of its own."""

    @classmethod
    def parameters(cls) -> Parameters:
        """Return what each parameter of the space may be."""
        return SEARCHED

    @classmethod
    def default_space(cls) -> dict[str, Domain]:
        """Return every parameter with the domain that it has unless the study file names another."""
        return default_space()


class ClassificationTeacher(TeacherSection):
    """The pretrained encoder of the teachers."""

    adapt: ClassificationAdapt | None = None


class ClassificationDefinition(StudyDefinition):
    """A classification study without its data."""

    task: Literal["classification"] = "classification"
    protocol: ClassificationProtocol = ClassificationProtocol()
    teacher: ClassificationTeacher = ClassificationTeacher()
    search: ClassificationSearch = ClassificationSearch()

    @property
    def student(self) -> str:
        """Return the kind of its students: known classes, scenes of these to adapt to, or any classes."""
        return self.protocol.kind if self.protocol.known else self.task

    @model_validator(mode="before")
    @classmethod
    def _joint_training(cls, values: Any) -> Any:
        """Let a study of known classes search what trains without a support, unless it says otherwise."""
        protocol, search = values.get("protocol"), values.get("search", {})
        known = isinstance(protocol, dict) and protocol.get("classes") == "known" and not protocol.get("scenes")
        if not (known and isinstance(search, dict)):
            return values
        space = search.get("space", {})
        if not isinstance(space, dict):
            return values  # refused below
        return values | {"search": search | {"space": {"learner": _JOINT} | space}}

    @model_validator(mode="after")
    def _no_support(self) -> ClassificationDefinition:
        if not self.protocol.known:
            return self
        space, unused = self.search.space, ["class_names"]
        if not self.protocol.scenes:
            if other := [name for name in values_of(space["learner"]) if name not in _JOINT]:
                raise ValueError(
                    f"search.space.learner: {other[0]} adapts to a support, and a study of known classes has none; "
                    f'accepted: {", ".join(_JOINT)}, or set protocol.classes = "new", or name scenes in data.scene'
                )
            if self.pruner.first_rung_scenes < 1:
                raise ValueError(
                    "pruner.first_rung_scenes has no use where classes are known: all rows are classified at once; "
                    "leave it out"
                )
            unused += INNER_LOOP
        for domains in (space, *self.search.learners.values()):
            for name in unused:
                domains.pop(name, None)
        return self
