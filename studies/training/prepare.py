"""From a study file to the problem that its trials share."""

from __future__ import annotations

from pathlib import Path

from studies.config.spec import StudySpec
from studies.progress import SILENT, ProgressReporter
from studies.tasks import TASKS
from studies.training.problem import Problem, TaskData


def load_data(spec: StudySpec, cache: Path, reporter: ProgressReporter = SILENT) -> TaskData:
    """Return a study's data, of its task's own kind.

    Args:
        spec: The study.
        cache: Folder of the caches that all processes share.
        reporter: Receives a note for each slow step.

    Raises:
        InputError: The data cannot give a study.
    """
    task = TASKS[spec.task]
    data: TaskData = task.part(task.load)(spec, cache, reporter)
    return data


def prepare(
    spec: StudySpec, cache: Path, *, reporter: ProgressReporter = SILENT, data: TaskData | None = None
) -> Problem:
    """Load a study's data and build its problem, with the activations of the encoder's frozen layers cached.

    Args:
        spec: The study.
        cache: Folder of the caches that all processes share.
        reporter: Receives the progress of long steps, now and whenever the problem takes long.
        data: The data set, where the caller has loaded it already.

    Raises:
        InputError: Data, protocol or encoder cannot give a meaningful study.
    """
    task = TASKS[spec.task]
    data = data or load_data(spec, cache, reporter)
    again = {"reselect": task.part(task.reselect)(spec.data, cache)} if task.reselect else {}
    problem: Problem = task.part(task.build)(spec, data, cache, reporter=reporter, **again)
    return problem
