"""A classification study without its data: labels of texts, from a few labelled texts of each class."""

from __future__ import annotations

from typing import Literal

from studies.classification.protocol import ClassificationProtocol
from studies.classification.search_space import SEARCHED, default_space
from studies.config.definition import StudyDefinition
from studies.config.distill_section import DistillSection
from studies.config.search_domains import Domain, Parameters
from studies.config.search_section import SearchSection


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


class ClassificationDistill(DistillSection):
    """The distillation of a classifier, beside a student that learns from the labels alone."""

    labels_alone: bool = True


class ClassificationDefinition(StudyDefinition):
    """A classification study without its data."""

    task: Literal["classification"] = "classification"
    protocol: ClassificationProtocol = ClassificationProtocol()
    search: ClassificationSearch = ClassificationSearch()
    distill: ClassificationDistill = ClassificationDistill()
