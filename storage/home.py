"""The folder of a project's state and the paths in it; no study's name can lead out of it.

postgres/            the embedded database, or a link to it
artifacts/STUDY-ID/  a study's checkpoints, by trial, and its workers' logs
cache/               caches for all studies: parsed data, activations of frozen layers
"""

import os
import re
from pathlib import Path

from storage.errors import InputError

# A file name everywhere: no separator, no leading dot (hidden, or `..`), no control character. Nor a leading hyphen:
# the name is an argument of commands, which would take it for an option.
_STUDY_NAME = re.compile(r"[^-./\\\x00-\x1f\x7f-\x9f][^/\\\x00-\x1f\x7f-\x9f]*")
# What Optuna's name of a study's distillation adds to the study's.
DISTILLATION = "-distill"
# Optuna's name of a distillation and the names of folders are longer than the study's name.
_MAX_NAME_BYTES, _MAX_FOLDER_BYTES = 180, 200
# PostgreSQL and libpq write paths into files of lines.
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def home() -> Path:
    """Return `$HPO_HOME`, or `.hpo` in the working directory, as an absolute path; create it when missing.

    A folder created here is private (0700) and ignored by git. One that exists is left as it is.

    Raises:
        InputError: The folder cannot be created, or its path has a control character.
    """
    path = Path(os.environ.get("HPO_HOME") or ".hpo").expanduser().absolute()
    if _CONTROL.search(f"{path}{path.resolve()}"):
        raise InputError(
            f"the state folder {str(path)!r} has a line break or another control character in its path: set HPO_HOME "
            "to a folder without"
        )
    if path.is_dir():
        return path
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        (path / ".gitignore").write_text("*\n")
    except OSError as error:
        raise InputError(
            f"cannot make the state folder {path} ({error.strerror}): set HPO_HOME to a folder that you may write to"
        ) from error
    return path


def cache_folder() -> Path:
    """Return the folder of the caches that all studies share; it is not created."""
    return home() / "cache"


def study_folder(key: str) -> Path:
    """Return the folder of a study's artifacts; it is not created.

    Args:
        key: Its name; `hpo.ownership` says which.

    Raises:
        InputError: That cannot be a folder's name.
    """
    check_folder_name(key)
    return home() / "artifacts" / key


def check_study_name(study: str) -> None:
    """Refuse a study's name of which no folder's name can be made, or which another study's students have.

    Raises:
        InputError: Says what is accepted.
    """
    check_folder_name(study, _MAX_NAME_BYTES)
    if study.endswith(DISTILLATION):
        raise InputError(
            f"study name {study!r}: the students of study {study.removesuffix(DISTILLATION)!r} have that name; rename "
            f"the study so that it does not end in {DISTILLATION}"
        )


def check_folder_name(name: str, longest: int = _MAX_FOLDER_BYTES) -> None:
    """Refuse a name that cannot be a folder's, or that is longer than so many bytes.

    Raises:
        InputError: Says what is accepted.
    """
    if not _STUDY_NAME.fullmatch(name) or len(name.encode(errors="replace")) > longest:
        raise InputError(
            f"study name {name!r}: accepted are 1 to {longest} bytes without / or \\ or control "
            "characters and without a leading dot or hyphen; rename the study"
        )


def trial_folder(key: str, trial: int) -> Path:
    """Return the folder of one trial's artifacts; it is not created."""
    if trial < 0:
        raise InputError(f"trial {trial}: trials are numbered from 0; take a number from the study's table")
    return study_folder(key) / f"trial-{trial:05d}"


def log_folder(key: str) -> Path:
    """Return the folder of a study's workers' logs; it is not created."""
    return study_folder(key) / "logs"
