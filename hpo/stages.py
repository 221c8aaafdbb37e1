"""Stages of a job that are written down when they are finished (`storage.database.records`): evaluation, exports."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from storage.database.postgres import Database
from storage.database.records import Records
from storage.errors import InputError

EVALUATION = "evaluation"
_EXPORT = "export "


def export_stage(folder: Path) -> str:
    """Return the name of the stage that wrote a folder."""
    return f"{_EXPORT}{folder}"


def exported_folders(stages: Mapping[str, Mapping[str, Any]]) -> tuple[Path, ...]:
    """Return the folders that a study was exported to, here or elsewhere, the oldest first.

    Args:
        stages: Of `Records.stage_results`.
    """
    return tuple(Path(result["folder"]) for name, result in stages.items() if name.startswith(_EXPORT))


def check_evaluated(database: Database, name: str) -> dict[str, Any]:
    """The study's stored evaluation.

    Raises:
        InputError: the study has not come that far.
    """
    evaluation = Records(database.engine).stage_result(name, EVALUATION)
    if evaluation is None:
        raise InputError(f"study {name!r} has no student yet: hpo run STUDY.toml searches, distils and evaluates first")
    return evaluation
