"""From `[data]` to a study's `Dataset`: reads a source once and caches it by the digest of its files."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

from studies.config.protocol_section import RankingProtocol
from studies.config.ranking_spec import RankingSpec
from studies.data.coding import build_dataset
from studies.data.dataset import Dataset
from studies.data.scene_selection import select_scenes
from studies.data.source import InteractionSource
from studies.data.source_cache import Notify, read_once
from studies.progress import SILENT, ProgressReporter


def load_data(
    section: InteractionSource, protocol: RankingProtocol, cache: Path, reporter: ProgressReporter = SILENT
) -> Dataset:
    """Return the data of a study: its eligible scenes, read from the source or from the cache.

    Args:
        section: The source with its keys.
        protocol: Whether repeated interactions count, and which items are candidates.
        cache: Folder of the caches that all processes share.
        reporter: Receives a note for each slow step, and for each warning of the source.

    Raises:
        InputError: No scene is large enough, or the source cannot be read.
    """
    data = read_source(section, cache, reporter)
    for warning in data.warnings:
        reporter.note(f"warning: {warning}")
    return select_scenes(data, section, protocol)


def reselector(section: InteractionSource, cache: Path) -> Callable[[RankingProtocol, int | None], Dataset]:
    """Return a function that selects a study's scenes under another protocol and `min_interactions` (None: its own).

    The source is read, from the cache, with the first call.

    Args:
        section: The source with its keys.
        cache: Folder of the caches that all processes share.
    """
    everything = functools.cache(lambda: read_source(section, cache))

    def reselect(protocol: RankingProtocol, min_interactions: int | None) -> Dataset:
        changes = {} if min_interactions is None else {"min_interactions": min_interactions}
        return select_scenes(everything(), section.model_copy(update=changes), protocol)

    return reselect


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

    def read(notify: Notify) -> Dataset:
        tables = section.read()
        notify(f"coding {len(tables.interactions):,} interactions")
        return build_dataset(tables)

    return read_once(section, Dataset, read, cache, reporter)
