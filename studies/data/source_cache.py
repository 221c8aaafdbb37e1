"""Reads a source once: what was read is cached by the digest of its files."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

from storage.errors import InputError
from storage.files.atomic import sha256
from studies.data import dataset_cache
from studies.data.dataset_cache import Data
from studies.data.source import Source
from studies.progress import SILENT, ProgressReporter

# Bytes of files from which on reading takes several seconds and is reported.
LARGE = 20_000_000
Notify = Callable[[str], None]


def read_once(
    section: Source, kind: type[Data], read: Callable[[Notify], Data], cache: Path, reporter: ProgressReporter = SILENT
) -> Data:
    """Return all data of a source, from the cache where the same files were read with the same keys before.

    Args:
        section: The source with its keys.
        kind: The form of the data, a dataclass that `dataset_cache` stores.
        read: Reads the source; called with a function that takes a note for each slow step.
        cache: Folder of the caches that all processes share.
        reporter: Receives a note for each step where the files are large.

    Raises:
        InputError: A file is missing, cannot be read, or changes while it is read.
    """
    files = section.files()
    before = [_size_and_time(file) for file in files]
    folder = cache / "data" / _cache_key(section, kind, files)
    if (data := dataset_cache.load(folder, kind)) is not None:
        return data
    # The time that either step takes is not known beforehand, only the size of its input.
    large = (size := sum(state[0] for state in before)) >= LARGE
    notify: Notify = reporter.note if large else lambda _: None
    notify(f"reading {len(files)} file{'s' * (len(files) > 1)}, {size / 1e6:,.0f} MB")
    data = read(notify)
    for file, state in zip(files, before, strict=True):
        if _size_and_time(file) != state:
            raise InputError(f"{file} changed while it was read; wait until it is written, then run again")
    dataset_cache.save(data, folder)
    return data


def _cache_key(section: Source, kind: type[Data], files: list[Path]) -> str:
    settings = section.model_dump_json(exclude=set(section.selecting) | set(section.paths))
    digest = hashlib.sha256(f"{dataset_cache.FORMAT}\x1f{kind.__name__}\x1f{section.source}\x1f{settings}".encode())
    for file in files:
        # Folders such as store=1 are columns to a reader.
        columns = [folder for folder in file.parts if "=" in folder]
        digest.update("\x1f".join([*columns, file.name, sha256(file)]).encode())
    return digest.hexdigest()[:32]


def _size_and_time(file: Path) -> tuple[int, int]:
    """Return the bytes and the modification time of a file."""
    try:
        status = file.stat()
    except FileNotFoundError as error:
        raise InputError(f"{file} vanished while it was read; put it back, then run again") from error
    return status.st_size, status.st_mtime_ns
