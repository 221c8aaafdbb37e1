"""What the stages of a job do otherwise for each task: a row of functions, loaded when a stage runs.

The counterpart of `studies.tasks`, for what reads the results of studies.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from storage.errors import InputError
from studies.config.definition import StudyDefinition


@dataclass(frozen=True)
class Stages:
    """The stages of one task, each as "module:function"; "" where the task does not have the stage.

    Attributes:
        check: `hpo data check`: what is in the data.
        print_check: Prints that.
    """

    check: str
    print_check: str


STAGES: dict[str, Stages] = {
    "ranking": Stages(
        check="hpo.data_check.check:check",
        print_check="hpo.reporting.sections.data_check:print_check",
    ),
}


def stage(study: StudyDefinition, name: str) -> Callable[..., Any]:
    """Import and return a stage of a study's task.

    Args:
        study: The study.
        name: The stage, a field of `Stages`.

    Raises:
        InputError: The task does not have the stage.
    """
    place: str = getattr(STAGES[study.task], name)
    if not place:
        raise InputError(f"a study of {study.task} has no stage {name!r} yet; hpo launch and hpo status search it")
    module, function = place.split(":")
    found: Callable[..., Any] = getattr(import_module(module), function)
    return found
