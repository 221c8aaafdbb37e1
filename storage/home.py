"""The one folder that holds a project's state: the embedded database, artifacts and caches."""

import os
from pathlib import Path

from storage.errors import InputError


def home() -> Path:
    """Return `$HPO_HOME`, or `.hpo` in the working directory, as an absolute path; create it when missing.

    A folder made here is private (0700) and ignored by git. One that exists is left as it is.

    Raises:
        InputError: The folder cannot be made.
    """
    path = Path(os.environ.get("HPO_HOME") or ".hpo").expanduser().absolute()
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
