"""From `[data]` to a `Dataset` of the scenes worth a study; what a source has read is cached by its files' bytes."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated, get_args

import numpy as np
import polars as pl
from pydantic import Field

from storage.errors import InputError
from storage.files.atomic import sha256
from studies.config.protocol_section import ProtocolSection
from studies.data import stored
from studies.data.completejourney import CompleteJourney
from studies.data.dataset import Dataset, Ints, build, keep_first_takes, keep_scenes
from studies.data.files import Files
from studies.data.source import Source
from studies.progress import SILENT, ProgressReporter

# The registry of sources: add a class here. The schema of `[data]` and the names in error messages are built from it.
AnySource = CompleteJourney | Files
DataSection = Annotated[AnySource, Field(discriminator="source")]
SOURCES: dict[str, type[Source]] = {
    get_args(kind.model_fields["source"].annotation)[0]: kind for kind in get_args(AnySource)
}
# Bytes of files that take some seconds to read.
LARGE = 20_000_000


def load(section: Source, protocol: ProtocolSection, cache: Path, reporter: ProgressReporter = SILENT) -> Dataset:
    """The study's data: read, or taken from the cache, and cut to the scenes worth a study.

    Args:
        section: the source with its keys.
        protocol: says whether repeated interactions count, and what is a candidate.
        cache: folder of the caches that all processes share.
        reporter: see `read`.

    Raises:
        InputError: no scene is large enough, or the source cannot be read.
    """
    return worth_a_study(read(section, cache, reporter), section, protocol)


def worth_a_study(data: Dataset, section: Source, protocol: ProtocolSection) -> Dataset:
    """What of a source's data a study uses: the scenes that reach the minima, without repeats where none count.

    Raises:
        InputError: no scene is large enough, or no row tells before from after.
    """
    _refuse_meaningless(data)
    if protocol.repeat == "exclude":
        data = keep_first_takes(data)
    fit = eligible(data, section, every_item=(every_item := protocol.candidates == "all"))
    if len(fit) == 0:
        raise InputError(
            f"none of the {len(data.scenes)} scenes has min_interactions = {section.min_interactions}, "
            f"min_users = {section.min_users} and min_items = {section.min_items}; lower them in [data] "
            f"(the largest scene has {_largest(data)})"
        )
    reason = "scene below min_interactions, min_users or min_items"
    data = keep_scenes(data, fit, reason, every_item=every_item)
    if section.max_scenes is not None and section.max_scenes < len(data.scenes):
        sample = by_digest(data.scenes, seed=0)[: section.max_scenes]
        data = keep_scenes(data, sample, "scene not in the sample of max_scenes", every_item=every_item)
    return data


def read(section: Source, cache: Path, reporter: ProgressReporter = SILENT) -> Dataset:
    """All that a source holds, from the cache where the same files were read in the same way before.

    Args:
        section: the source with its keys.
        cache: folder of the caches that all processes share.
        reporter: told where the files are so large that reading them takes long.

    Raises:
        InputError: a file is missing, cannot be read, or changes while it is read.
    """
    files = section.files()
    before = [_state(file) for file in files]
    settings = section.model_dump_json(exclude=set(Source.model_fields) - {"source"} | set(section.paths))
    digest = hashlib.sha256(f"{stored.FORMAT}\x1f{section.source}\x1f{settings}".encode())
    for file in files:
        # Folders such as store=1 are columns to a reader.
        columns = [folder for folder in file.parts if "=" in folder]
        digest.update("\x1f".join([*columns, file.name, sha256(file)]).encode())
    folder = cache / "data" / digest.hexdigest()[:32]
    if (data := stored.load(folder)) is not None:
        return data
    # How long either takes is not known beforehand: its size is all that can be said.
    large = (size := sum(state[0] for state in before)) >= LARGE
    if large:
        reporter.note(f"reading {len(files)} file{'s' * (len(files) > 1)}, {size / 1e6:,.0f} MB")
    tables = section.read()
    if large:
        reporter.note(f"coding {len(tables.interactions):,} interactions")
    data = build(tables)
    for file, state in zip(files, before, strict=True):
        if _state(file) != state:
            raise InputError(f"{file} changed while it was read; wait until it is written, then run again")
    stored.save(data, folder)
    return data


def _state(file: Path) -> tuple[int, int]:
    try:
        status = file.stat()
    except FileNotFoundError as error:
        raise InputError(f"{file} vanished while it was read; put it back, then run again") from error
    return status.st_size, status.st_mtime_ns


def _refuse_meaningless(data: Dataset) -> None:
    if len(data.time) == 0:
        reasons = "; ".join(f"{count:,}: {reason}" for reason, count in data.dropped.items())
        raise InputError(
            f"none of the {data.rows_read:,} rows of the log can be used ({reasons or 'it is empty'}); check the "
            "columns that [data] names: hpo data check shows what was read"
        )
    if data.time[0] == data.time[-1]:
        raise InputError(
            f"all {len(data.time):,} interactions are at one time ({data.time[0]} in UTC seconds): there is no before "
            "and after to learn from; name the column of the interaction's own time in data.time"
        )


def eligible(data: Dataset, section: Source, *, every_item: bool = False) -> Ints:
    """Codes of the scenes that reach all of the section's minima.

    Args:
        data: the data.
        section: the minima.
        every_item: every item is a candidate in every scene.
    """
    sizes = _sizes(data)
    items = np.full(len(data.scenes), len(data.texts)) if every_item else sizes["items"].to_numpy()
    enough = (
        (sizes["interactions"].to_numpy() >= section.min_interactions)
        & (sizes["users"].to_numpy() >= section.min_users)
        & (items >= section.min_items)
    )
    return np.flatnonzero(enough)


def _sizes(data: Dataset) -> pl.DataFrame:
    """Interactions, users and items of each scene, in order of codes."""
    log = pl.DataFrame({"scene": data.scene, "user": data.user})
    counted = log.group_by("scene").agg(interactions=pl.len(), users=pl.col("user").n_unique())
    sizes = pl.DataFrame({"scene": np.arange(len(data.scenes)), "items": np.diff(data.catalogue_start)})
    return sizes.join(counted, on="scene", how="left", maintain_order="left").fill_null(0)


def _largest(data: Dataset) -> str:
    row = _sizes(data).sort("interactions").tail(1).to_dicts()[0]
    return f"{row['interactions']} interactions, {row['users']} users, {row['items']} items"


def by_digest(names: tuple[str, ...], seed: int) -> Ints:
    """Positions of `names` in a random order that depends on each name and the seed alone.

    A scene keeps its place relative to the others when scenes are added, which a shuffle would not give.
    """
    digests = [hashlib.blake2b(f"{seed}\x1f{name}".encode(), digest_size=8).digest() for name in names]
    return np.array(sorted(range(len(names)), key=lambda i: digests[i]), dtype=np.int64)
