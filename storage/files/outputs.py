"""Places where results are written: checked before the work, and named when writing fails at its end."""

from __future__ import annotations

import errno
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from storage.errors import ArtifactsUnavailable, InputError, ScenetuneError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)
_DENIED = (errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.ENAMETOOLONG)
# Libraries written in Rust, such as safetensors, raise no OSError.
_RUST = re.compile(r"\(os error (\d+)\)")
_PROBE_BYTES = 4096


def check_place(path: Path, remedy: str, needs: int = 0) -> None:
    """Check before the work that a file or folder can be written at its end. Nothing is left there.

    Args:
        path: The file or folder to write; its parents may be missing.
        remedy: What to do if it cannot, such as "name another folder with --out".
        needs: Its size in bytes, where that is known.

    Raises:
        InputError: It cannot be written there, or the disk lacks the room.
    """
    folder = next(parent for parent in path.absolute().parents if os.path.lexists(parent))
    try:
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(bytes(_PROBE_BYTES))
    except OSError as error:
        raise InputError(f"cannot write {path}: {folder} takes no files ({error.strerror}); {remedy}") from error
    if needs > (room := shutil.disk_usage(folder).free):
        raise InputError(
            f"cannot write {path}: it takes {_megabytes(needs)}, and the disk of {folder} has room for "
            f"{_megabytes(room)}; free disk space there, or {remedy}"
        )


@contextmanager
def named_failures(path: Path) -> Iterator[None]:
    """Turn an error of writing `path` inside the block, such as a full disk, into one that names it.

    Raises:
        ArtifactsUnavailable: A write failed.
    """
    try:
        yield
    except ScenetuneError:
        raise
    except Exception as error:
        words = write_failure(error, path)
        if words is None:
            raise
        raise ArtifactsUnavailable(words) from error


def write_failure(error: BaseException, path: Path | None = None) -> str | None:
    """Return in words that a file could not be written and what to do; None if the error is another.

    Args:
        error: With its causes.
        path: What was being written.
    """
    found = _os_error(error)
    if found is None:
        return None
    named = Path(os.fsdecode(found.filename)) if isinstance(found.filename, str | bytes) else None
    # A library's temporary file may be on another disk than the result.
    ours = path is not None and (named is None or path.parent in (named, *named.parents) or named in path.parents)
    if not (ours or found.errno in _FULL):
        return None
    place = (path if ours else named) or "a file, or to stdout"
    return (
        f"cannot write {place} ({found.strerror}): free space there or permit writing, then run the same command again"
    )


def _os_error(error: BaseException | None) -> OSError | None:
    """Return the error of a failed write among an exception and its causes."""
    known = (*_FULL, *_DENIED)
    while error is not None:
        if isinstance(error, OSError):
            return error if error.errno in known else None
        if (code := _RUST.search(str(error))) and int(code[1]) in known:
            return OSError(int(code[1]), os.strerror(int(code[1])))
        error = error.__cause__
    return None


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"
