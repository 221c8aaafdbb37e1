"""The report of a study that was evaluated: from what is stored to a page in a folder."""

from __future__ import annotations

from pathlib import Path

from hpo.reporting.document import study_document
from hpo.reporting.page import write
from hpo.stages import check_evaluated
from storage.database.postgres import Database
from studies.config.spec import StudySpec


def report_folder(name: str) -> Path:
    """Where a study's report goes unless told otherwise."""
    return Path("reports", name).absolute()


def write_report(database: Database, spec: StudySpec, folder: Path, exported: Path | None = None) -> Path:
    """Writes a finished study's report and returns its page; an older one in `folder` is replaced.

    Raises:
        InputError: the study has not been evaluated yet.
    """
    evaluation = check_evaluated(database, spec.name)
    exported = exported or spec.export_folder().absolute()
    document = study_document(database, spec, evaluation, exported if exported.exists() else None)
    return write(document, folder)[0]
