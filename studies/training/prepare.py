"""From a study file to the problem that its trials share."""

from __future__ import annotations

from pathlib import Path

from studies.config.spec import StudySpec
from studies.data.dataset import Dataset
from studies.data.loading import load_data, reselector
from studies.progress import SILENT, ProgressReporter
from studies.training.problem import Problem, build_problem


def prepare(
    spec: StudySpec, cache: Path, *, reporter: ProgressReporter = SILENT, data: Dataset | None = None
) -> Problem:
    """Load a study's data and build its problem; see `build_problem`.

    Args:
        spec: The study.
        cache: Folder of the caches that all processes share.
        reporter: Receives the progress of long steps, now and whenever the problem takes long.
        data: The data set, where the caller has loaded it already.

    Raises:
        InputError: Data, protocol or encoder cannot give a meaningful study.
    """
    data = data or load_data(spec.data, spec.protocol, cache, reporter)
    return build_problem(spec, data, cache, reporter=reporter, reselect=reselector(spec.data, cache))
