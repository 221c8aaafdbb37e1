"""Checkpoints, report and exports as Optuna's artifacts: what their ids say, and where they are registered.

An id says what it is of, so that registering an artifact copies nothing and costs a worker one attribute;
`hpo/dashboard/downloads.py` opens what is asked for.
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
from storage.home import check_study_name

# Optuna's, of attributes of a trial or a study; and optuna-dashboard's, of a study's for a trial that has ended.
PREFIX, FOR_TRIAL = "artifacts:", "dashboard:artifacts:"
_ID = re.compile(r"(checkpoint)/([^/]+)/(0|[1-9][0-9]{0,9})|(report)/([^/]+)/|(export)/([^/]+)/([0-9a-f]{16})")
_NOT_IN_FILE_NAMES = re.compile(r"[^\w.-]+")


@dataclass(frozen=True)
class Artifact:
    """A file that can be asked for.

    Attributes:
        kind: checkpoint, report or export.
        study: name of the Optuna study that a checkpoint is of; else of the search.
        of: the number of a checkpoint's trial, as its folder has it; the digest of an export's folder.
    """

    kind: str
    study: str
    of: str = ""

    @property
    def id(self) -> str:
        """What optuna-dashboard takes for an id: hexadecimal digits."""
        return f"{self.kind}/{self.study}/{self.of}".encode().hex()

    @property
    def key(self) -> str:
        """The attribute of a study or a running trial that Optuna knows it by."""
        return PREFIX + self.id

    def key_for(self, trial_id: int) -> str:
        """The attribute of a study that optuna-dashboard knows it by as an artifact of a trial that has ended."""
        return f"{FOR_TRIAL}{trial_id}:{self.id}"

    def described(self, filename: str) -> str:
        """The attribute's value, as `optuna.artifacts.upload_artifact` writes it."""
        mimetype, encoding = mimetypes.guess_type(filename)
        assert mimetype is not None
        meta = {"artifact_id": self.id, "filename": filename, "mimetype": mimetype, "encoding": encoding}
        return json.dumps(meta)


def checkpoint(study: str, trial: int) -> Artifact:
    """The last checkpoint of a trial, of which the first of its chain has the folder."""
    return Artifact("checkpoint", study, str(trial))


def report(study: str) -> Artifact:
    """The report of an evaluated study."""
    return Artifact("report", study)


def export(study: str, folder: Path) -> Artifact:
    """The export that a study left in a folder."""
    return Artifact("export", study, sha256(str(folder).encode()).hexdigest()[:16])


def attach_checkpoint(trial: optuna.Trial, number: int) -> None:
    """Registers the checkpoint of a trial that still runs; it takes no further attribute once it has ended."""
    made = checkpoint(trial.study.study_name, number)
    trial.storage.set_trial_system_attr(trial._trial_id, made.key, made.described(checkpoint_name(made)))


def attached_checkpoints(study: optuna.Study) -> dict[int, str]:
    """Where the dashboard has the checkpoints that are registered with a study's finished trials, by number."""
    found = {}
    for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
        made = checkpoint(study.study_name, chain_of(trial))
        if made.key in trial._system_attrs:
            found[trial.number] = address(study._study_id, made, trial._trial_id)
    return found


def address(study_id: int, artifact: Artifact, trial_id: int | None = None) -> str:
    """Where the dashboard has an artifact of a study, or of one of its trials."""
    return f"/artifacts/{study_id}/{'' if trial_id is None else f'{trial_id}/'}{artifact.id}"


def checkpoint_name(artifact: Artifact) -> str:
    """What a checkpoint's file is called."""
    return f"{_safe(artifact.study)}-trial-{artifact.of}-checkpoint.zip"


def report_name(study: str) -> str:
    """What a report's file is called."""
    return f"{_safe(study)}-report.html"


def export_name(study: str, folder: Path) -> str:
    """What an export's file is called: two exports of a study have two folders."""
    return f"{_safe(study)}-export{'' if folder.name == study else f'-{_safe(folder.name)[:40]}'}.zip"


def parse(artifact_id: str) -> Artifact | None:
    """What an id says; None of one that we would not have given."""
    try:
        text = bytes.fromhex(artifact_id).decode()
    except ValueError:
        return None
    if (found := _ID.fullmatch(text)) is None:
        return None
    kind, study, *of = (part for part in found.groups() if part is not None)
    artifact = Artifact(kind, study, "".join(of))
    try:
        check_study_name(study)
    except InputError:
        return None
    return artifact if artifact.id == artifact_id else None


def _safe(name: str) -> str:
    """A name with what files are not called everywhere replaced."""
    return _NOT_IN_FILE_NAMES.sub("-", name).strip("-.") or "study"
