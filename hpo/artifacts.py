"""Checkpoints, report and exports as Optuna's artifacts: their ids, names and attributes.

An id names a file of a study, so that registering an artifact copies nothing and costs a worker one attribute;
`hpo/dashboard/downloads.py` opens it.
"""

from __future__ import annotations

import json
import mimetypes
import re
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import optuna
from optuna.trial import TrialState

from hpo.search.trial_chains import chain_of
from storage.errors import InputError
from storage.home import check_folder_name

# Of the attributes of a trial or a study, Optuna's prefix; and optuna-dashboard's, for a trial that has ended.
PREFIX, FOR_TRIAL = "artifacts:", "dashboard:artifacts:"
_ID = re.compile(r"(checkpoint)/([^/]+)/(0|[1-9][0-9]{0,9})|(report)/([^/]+)/|(export)/([^/]+)/([0-9a-f]{16})")
_NOT_IN_FILE_NAMES = re.compile(r"[^\w.-]+")


@dataclass(frozen=True)
class Artifact:
    """A file to download.

    Attributes:
        kind: Checkpoint, report or export.
        study: Name of the Optuna study of a checkpoint; else of the search.
        of: Number of a checkpoint's trial, as its folder has it; digest of an export's folder.
    """

    kind: str
    study: str
    of: str = ""

    @property
    def id(self) -> str:
        """Return the id: hexadecimal digits, which is all that optuna-dashboard accepts."""
        return f"{self.kind}/{self.study}/{self.of}".encode().hex()

    @property
    def key(self) -> str:
        """Return the key of its attribute of a study or a running trial, as Optuna defines it."""
        return PREFIX + self.id

    def key_for(self, trial_id: int) -> str:
        """Return the key of its attribute of a study for a trial that has ended, as optuna-dashboard defines it."""
        return f"{FOR_TRIAL}{trial_id}:{self.id}"

    def described(self, filename: str) -> str:
        """Return the attribute's value, as `optuna.artifacts.upload_artifact` writes it."""
        mimetype, encoding = mimetypes.guess_type(filename)
        assert mimetype is not None
        meta = {"artifact_id": self.id, "filename": filename, "mimetype": mimetype, "encoding": encoding}
        return json.dumps(meta)


def checkpoint(study: str, trial: int) -> Artifact:
    """Return the last checkpoint of a trial; its folder is that of the first trial of its chain."""
    return Artifact("checkpoint", study, str(trial))


def report(study: str) -> Artifact:
    """Return the report of an evaluated study."""
    return Artifact("report", study)


def export(study: str, folder: Path) -> Artifact:
    """Return the export of a study in a folder."""
    return Artifact("export", study, sha256(str(folder).encode()).hexdigest()[:16])


def attach_checkpoint(trial: optuna.Trial, number: int) -> None:
    """Register the checkpoint of a running trial: Optuna refuses attributes of one that has ended."""
    made = checkpoint(trial.study.study_name, number)
    trial.storage.set_trial_system_attr(trial._trial_id, made.key, made.described(checkpoint_name(made)))


def attached_checkpoints(study: optuna.Study) -> dict[int, str]:
    """Return the dashboard's addresses of the checkpoints of a study's finished trials, by number."""
    found = {}
    for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
        made = checkpoint(study.study_name, chain_of(trial))
        if made.key in trial._system_attrs:
            found[trial.number] = address(study._study_id, made, trial._trial_id)
    return found


def address(study_id: int, artifact: Artifact, trial_id: int | None = None) -> str:
    """Return the dashboard's address of an artifact of a study, or of one of its trials."""
    return f"/artifacts/{study_id}/{'' if trial_id is None else f'{trial_id}/'}{artifact.id}"


def checkpoint_name(artifact: Artifact) -> str:
    """Return the name of a checkpoint's file."""
    return f"{_safe(artifact.study)}-trial-{artifact.of}-checkpoint.zip"


def report_name(study: str) -> str:
    """Return the name of a report's file."""
    return f"{_safe(study)}-report.html"


def export_name(study: str, folder: Path) -> str:
    """Return the name of an export's file; it differs between the folders of a study's exports."""
    return f"{_safe(study)}-export{'' if folder.name == study else f'-{_safe(folder.name)[:40]}'}.zip"


def parse(artifact_id: str) -> Artifact | None:
    """Return the artifact of an id; None of an id that no artifact has."""
    try:
        text = bytes.fromhex(artifact_id).decode()
    except ValueError:
        return None
    if (found := _ID.fullmatch(text)) is None:
        return None
    kind, study, *of = (part for part in found.groups() if part is not None)
    artifact = Artifact(kind, study, "".join(of))
    try:
        check_folder_name(study)
    except InputError:
        return None
    return artifact if artifact.id == artifact_id else None


def _safe(name: str) -> str:
    """Return a name without the characters that some file systems refuse."""
    return _NOT_IN_FILE_NAMES.sub("-", name).strip("-.") or "study"
