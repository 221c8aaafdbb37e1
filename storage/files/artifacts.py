"""Where a study's files lie under the home; names that would lead out of it are refused."""

import re
from pathlib import Path

from storage.errors import InputError
from storage.home import home

# A file name everywhere: no separator, no leading dot (hidden, or `..`), no control character.
_STUDY_NAME = re.compile(r"[^./\\\x00-\x1f\x7f][^/\\\x00-\x1f\x7f]*")
_MAX_NAME_BYTES = 200


def study_folder(study: str) -> Path:
    """Return the folder of a study's artifacts; it is not created.

    Raises:
        InputError: The name cannot be a folder's name.
    """
    check_study_name(study)
    return home() / "artifacts" / study


def check_study_name(study: str) -> None:
    """Refuse a name that cannot be a folder's.

    Raises:
        InputError: Says what is accepted.
    """
    if not _STUDY_NAME.fullmatch(study) or len(study.encode(errors="replace")) > _MAX_NAME_BYTES:
        raise InputError(
            f"study name {study!r}: accepted are 1 to {_MAX_NAME_BYTES} bytes without / or \\ or control "
            "characters and without a leading dot; rename the study"
        )


def trial_folder(study: str, trial: int) -> Path:
    """Return the folder of one trial's artifacts; it is not created."""
    if trial < 0:
        raise InputError(f"trial {trial}: trials are numbered from 0; take a number from the study's table")
    return study_folder(study) / f"trial-{trial:05d}"
