"""From `[data]` to a study's `Dataset`: reads a source once and caches it by the digest of its files."""

from __future__ import annotations

import hashlib
from pathlib import Path

from storage.errors import InputError
from storage.files.atomic import sha256
from studies.config.protocol_section import RankingProtocol
from studies.config.ranking_spec import RankingSpec
from studies.data import dataset_cache
from studies.data.coding import build_dataset
from studies.data.dataset import Dataset
from studies.data.scene_selection import select_scenes
from studies.data.source import InteractionSource
from studies.progress import SILENT, ProgressReporter

# Bytes of files from which on reading takes several seconds and is reported.
LARGE = 20_000_000


def load_data(
    section: InteractionSource, protocol: RankingProtocol, cache: Path, reporter: ProgressReporter = SILENT
) -> Dataset:
    """Return the data of a study: its eligible scenes, read from the source or from the cache.

    Args:
        section: The source with its keys.
        protocol: Whether repeated interactions count, and which items are candidates.
        cache: Folder of the caches that all processes share.
        reporter: Receives a note for each slow step.

    Raises:
        InputError: No scene is large enough, or the source cannot be read.
    """
    return select_scenes(read_source(section, cache, reporter), section, protocol)


def load_study(spec: RankingSpec, cache: Path, reporter: ProgressReporter = SILENT) -> Dataset:
    """Return the data of a ranking study; see `load_data`."""
    return load_data(spec.data, spec.protocol, cache, reporter)


def read_source(section: InteractionSource, cache: Path, reporter: ProgressReporter = SILENT) -> Dataset:
    """Return all data of a source, from the cache where the same files were read with the same keys before.

    Args:
        section: The source with its keys.
        cache: Folder of the caches that all processes share.
        reporter: Receives a note for each step where the files are large.

    Raises:
        InputError: A file is missing, cannot be read, or changes while it is read.
    """
    files = section.files()
    before = [_size_and_time(file) for file in files]
    folder = cache / "data" / _cache_key(section, files)
    if (data := dataset_cache.load(folder)) is not None:
        return data
    # The time that either step takes is not known beforehand, only the size of its input.
    large = (size := sum(state[0] for state in before)) >= LARGE
    if large:
        reporter.note(f"reading {len(files)} file{'s' * (len(files) > 1)}, {size / 1e6:,.0f} MB")
    tables = section.read()
    if large:
        reporter.note(f"coding {len(tables.interactions):,} interactions")
    data = build_dataset(tables)
    for file, state in zip(files, before, strict=True):
        if _size_and_time(file) != state:
            raise InputError(f"{file} changed while it was read; wait until it is written, then run again")
    dataset_cache.save(data, folder)
    return data


def _cache_key(section: InteractionSource, files: list[Path]) -> str:
    settings = section.model_dump_json(exclude=set(InteractionSource.model_fields) - {"source"} | set(section.paths))
    digest = hashlib.sha256(f"{dataset_cache.FORMAT}\x1f{section.source}\x1f{settings}".encode())
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
