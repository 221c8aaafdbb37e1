"""Atomic writes: a file or folder is complete or absent, even if the writer is killed; for checkpoints and exports."""

import errno
import fcntl
import glob
import hashlib
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from secrets import token_hex

from storage.errors import InputError
from storage.files.outputs import named_failures

_DRAFT = re.compile(r"\.(.+)\.[0-9a-f]{12}\.(new|old)")


@contextmanager
def atomic_folder(path: Path, replace: bool = False) -> Iterator[Path]:
    """Yield an empty folder to write into; it becomes `path` when the block ends without an exception.

    Args:
        path: The final folder; its parents are created when missing, and removed again if the block fails.
        replace: Whether to replace an existing folder. A reader finds the old one, the new one or, between two
            renames, none; never a mixture.

    Raises:
        InputError: `path` exists and `replace` is false.
        ArtifactsUnavailable: It cannot be written, as on a full disk.
    """
    if not replace:
        _refuse_existing(path)
    with named_failures(path), _parents(path), _drafts([path], Path.mkdir) as [draft]:
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


def atomic_write(path: Path, data: bytes) -> None:
    """Write a file so that a reader sees the old content or the new, never a part of it.

    Raises:
        ArtifactsUnavailable: It cannot be written, as on a full disk.
    """
    atomic_files(path.parent, {path.name: data})


def atomic_files(folder: Path, contents: Mapping[str, bytes]) -> None:
    """Write files that belong together: none is replaced unless all could be written.

    Raises:
        ArtifactsUnavailable: They cannot be written, as on a full disk.
    """
    paths = [folder / name for name in contents]
    with named_failures(paths[0]), _parents(paths[0]), _drafts(paths, Path.touch) as drafts:
        for draft, data in zip(drafts, contents.values(), strict=True):
            draft.write_bytes(data)
            _sync(draft)
        for draft, path in zip(drafts, paths, strict=True):
            draft.replace(path)
        _sync(folder)


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


@contextmanager
def _parents(path: Path) -> Iterator[None]:
    """Create the missing parents of a path; remove those again if the block fails."""
    missing = [parent for parent in path.parents if not parent.exists()]
    try:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except FileExistsError as error:
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path.parent)) from error
        yield
    except BaseException:
        for parent in missing:
            # Another writer may have put something there.
            with suppress(OSError):
                parent.rmdir()
        raise


@contextmanager
def _drafts(paths: Sequence[Path], create: Callable[[Path], None]) -> Iterator[list[Path]]:
    """Create a draft of each path, locked while the block runs; those that it did not rename are removed then."""
    with ExitStack() as stack:
        for path in paths:
            _remove_abandoned(path)
        yield [_locked_draft(path, create, stack) for path in paths]


def _locked_draft(path: Path, create: Callable[[Path], None], stack: ExitStack) -> Path:
    """Create a draft and hold its lock, which the kernel releases when the process ends in any way."""
    while True:
        draft = _sibling(path, "new")
        stack.callback(_erase, draft)
        create(draft)
        # Before it is locked, another writer of the path may take it for abandoned.
        with suppress(FileNotFoundError):
            descriptor = os.open(draft, os.O_RDONLY)
            stack.callback(os.close, descriptor)
            # Where a file system has no locks, no draft is found unlocked either.
            with suppress(OSError):
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            if draft.exists():
                return draft


def _remove_abandoned(path: Path) -> None:
    """Remove the drafts of `path` that killed writers left: those that no process has locked."""
    for draft in path.parent.glob(f".{glob.escape(path.name)}.*"):
        left = _DRAFT.fullmatch(draft.name)
        # Between two renames, the folder that is being replaced has only the name that ends in `old`.
        if left is None or left[1] != path.name or (left[2] == "old" and not path.exists()):
            continue
        with suppress(OSError):
            descriptor = os.open(draft, os.O_RDONLY)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _erase(draft)
            finally:
                os.close(descriptor)


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
        path.unlink(missing_ok=True)


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
