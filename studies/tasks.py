"""The registry of tasks: one row each, which says where its study file, its data and its problem are.

`task` of a study file names the row. Nothing here loads what a row names: a study file is validated before torch is
loaded, and a machine that trains needs no polars.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

# The task of a study file that names none.
DEFAULT = "ranking"


@dataclass(frozen=True)
class Task:
    """One task, each part as "module:name".

    Attributes:
        name: Its name in study files and reports.
        definition: The model of a study without its data, a `studies.config.definition.StudyDefinition`.
        spec: The model of a study file, a `studies.config.spec.StudySpec`.
        load: The function from a study file, the folder of caches and a reporter to the study's data.
        build: The function from a study without data, its data, the folder of caches and a reporter to its
            `studies.training.problem.Problem`.
        reselect: The function from `[data]` and the folder of caches to one that selects the data under another
            protocol, for messages that say what would help; "" where the task has none.
    """

    name: str
    definition: str
    spec: str
    load: str
    build: str
    reselect: str = ""

    def part(self, place: str) -> Callable[..., Any]:
        """Import and return one of its parts."""
        module, name = place.split(":")
        found: Callable[..., Any] = getattr(import_module(module), name)
        return found


TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Task(
            name="ranking",
            definition="studies.config.ranking:RankingDefinition",
            spec="studies.config.ranking_spec:RankingSpec",
            load="studies.data.loading:load_study",
            build="studies.training.ranking:build_problem",
            reselect="studies.data.loading:reselector",
        ),
        Task(
            name="classification",
            definition="studies.classification.definition:ClassificationDefinition",
            spec="studies.classification.spec:ClassificationSpec",
            load="studies.classification.data.loading:load_study",
            build="studies.classification.build:build_problem",
        ),
    )
}


def task_of(study: Any) -> Task:
    """Return the task that a parsed study file names.

    Raises:
        ValueError: There is no such task.
    """
    name = study.get("task", DEFAULT) if isinstance(study, dict) else DEFAULT
    if not isinstance(name, str) or name not in TASKS:
        raise ValueError(f"task: takes {' or '.join(map(repr, TASKS))}, got {name!r}")
    return TASKS[name]
