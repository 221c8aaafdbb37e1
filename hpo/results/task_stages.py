"""What the stages of a job do otherwise for each task: a row of functions, loaded when a stage runs.

The counterpart of `studies.tasks`, for what reads the results of studies.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from studies.config.definition import StudyDefinition


@dataclass(frozen=True)
class Stages:
    """The stages of one task, each as "module:function".

    Attributes:
        check: `hpo data check`: what is in the data.
        print_check: Prints that.
        rankings: Whether what it predicts are rankings, which TREC's formats hold.
        frozen: The baseline that knows nothing but what the frozen encoder says.
    """

    check: str
    print_check: str
    rankings: bool
    frozen: str


STAGES: dict[str, Stages] = {
    "ranking": Stages(
        check="hpo.data_check.check:check",
        print_check="hpo.reporting.sections.data_check:print_check",
        rankings=True,
        frozen="zero-shot encoder",
    ),
    "classification": Stages(
        check="hpo.data_check.labelled:check",
        print_check="hpo.reporting.sections.labelled_check:print_check",
        rankings=False,
        frozen="frozen encoder centroids",
    ),
}


def stage(study: StudyDefinition, name: str) -> Callable[..., Any]:
    """Import and return a stage of a study's task.

    Args:
        study: The study.
        name: The stage, a field of `Stages`.
    """
    place: str = getattr(STAGES[study.task], name)
    module, function = place.split(":")
    found: Callable[..., Any] = getattr(import_module(module), function)
    return found
