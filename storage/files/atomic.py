"""Atomic writes: a file or folder is complete or absent, even if the writer is killed; for checkpoints and exports."""

import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from secrets import token_hex

from storage.errors import InputError

_DRAFT = re.compile(r"\..+\.[0-9a-f]{12}\.(new|old)")


@contextmanager
def atomic_folder(path: Path, replace: bool = False) -> Iterator[Path]:
    """Yield an empty folder to write into; it becomes `path` when the block ends without an exception.

    Args:
        path: The final folder; its parent is created when missing.
        replace: Whether to replace an existing folder. A reader finds the old one, the new one or, between two
            renames, none; never a mixture.

    Raises:
        InputError: `path` exists and `replace` is false.
    """
    if not replace:
        _refuse_existing(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = _sibling(path, "new")
    draft.mkdir()
    try:
        yield draft
        for folder, _, files in os.walk(draft):
            for name in files:
                _sync(Path(folder, name))
            _sync(Path(folder))
        if replace:
            _swap(draft, path)
        else:
            _refuse_existing(path)
            draft.rename(path)
        _sync(path.parent)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise


def atomic_write(path: Path, data: bytes) -> None:
    """Write a file so that a reader sees the old content or the new, never a part of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = _sibling(path, "new")
    try:
        draft.write_bytes(data)
        _sync(draft)
        draft.replace(path)
        _sync(path.parent)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


def discard(path: Path) -> None:
    """Remove a folder, if it exists, so that a reader finds all of it or nothing."""
    old = _sibling(path, "old")
    try:
        path.rename(old)
    except FileNotFoundError:
        return
    _erase(old)


def sweep(folder: Path) -> None:
    """Remove the drafts of killed writers in `folder`; only for its one writer."""
    if folder.is_dir():
        for path in folder.iterdir():
            if _DRAFT.fullmatch(path.name):
                _erase(path)


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _refuse_existing(path: Path) -> None:
    if os.path.lexists(path):
        raise InputError(f"{path} exists already: name another folder, or remove it first")


def _swap(draft: Path, path: Path) -> None:
    """Replace `path` by `draft`; restore the old folder if the second rename fails."""
    old = _sibling(path, "old")
    try:
        path.rename(old)
    except FileNotFoundError:
        draft.rename(path)
        return
    try:
        draft.rename(path)
    except BaseException:
        old.rename(path)
        raise
    _erase(old)


def _erase(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink()


def _sibling(path: Path, suffix: str) -> Path:
    """Return a hidden path beside `path`: on the same file system, so that a rename is atomic."""
    return path.with_name(f".{path.name}.{token_hex(6)}.{suffix}")


def _sync(path: Path) -> None:
    """Force a file or a folder's entries to disk: a rename must not become durable before its content."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
