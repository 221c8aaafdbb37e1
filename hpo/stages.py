"""Stages of a job that are recorded when finished (`storage.database.records`): evaluation, explanations, exports."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from distill.evaluation import StudyEvaluation
from distill.export.tasks.explained import Explanations
from storage.database.postgres import Database
from storage.database.records import Records
from storage.errors import InputError
from studies.evaluation.figures import misfit

EVALUATION = "evaluation"
# Of its student, whatever it is exported to. A changed form needs another name: what is stored stays as it is.
EXPLANATIONS = "explanations"
_EXPORT = "export "
# The JSON of finished stages by name, of `Records.stage_results`.
Stages = Mapping[str, Mapping[str, Any]]


def export_stage(folder: Path) -> str:
    """Return the name of the stage that wrote a folder."""
    return f"{_EXPORT}{folder}"


def exported_folders(stages: Stages) -> tuple[Path, ...]:
    """Return the folders that a study was exported to, here or elsewhere, the oldest first.

    Args:
        stages: Of `Records.stage_results`.
    """
    return tuple(Path(result["folder"]) for name, result in stages.items() if name.startswith(_EXPORT))


def parse_evaluation(name: str, stored: Mapping[str, Any] | None) -> StudyEvaluation | None:
    """Return a study's stored evaluation, or None where there is none.

    Args:
        name: The study.
        stored: The result of its stage `EVALUATION`.

    Raises:
        InputError: What is stored is not what this version of scenetune stores.
    """
    if stored is None:
        return None
    try:
        return StudyEvaluation.model_validate(stored)
    except ValidationError as error:
        raise InputError(
            f"the stored evaluation of study {name!r} does not fit this version of scenetune ({misfit(error)}); "
            "use the version that evaluated it, or run the study under a new name"
        ) from error


def load_explanations(records: Records, name: str) -> Explanations | None:
    """Return a study's stored explanations; None before an export has stored them."""
    stored = records.stage_result(name, EXPLANATIONS)
    return None if stored is None else Explanations.model_validate(stored)


def check_evaluated(database: Database, name: str) -> StudyEvaluation:
    """Return a study's stored evaluation.

    Raises:
        InputError: The study has no evaluation yet, or one that this version of scenetune does not read.
    """
    evaluation = parse_evaluation(name, Records(database.engine).stage_result(name, EVALUATION))
    if evaluation is None:
        raise InputError(f"study {name!r} has no student yet: hpo run STUDY.toml searches, distils and evaluates first")
    return evaluation
