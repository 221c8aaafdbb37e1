"""The study file of classification."""

from __future__ import annotations

from studies.classification.data.sources import LabelledSection
from studies.classification.definition import ClassificationDefinition
from studies.config.spec import StudySpec


class ClassificationSpec(ClassificationDefinition, StudySpec):
    """A validated study file of classification."""

    data: LabelledSection
