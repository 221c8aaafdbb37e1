"""From `[data]` to a study's `LabelledTexts`: reads a source once and caches it by the digest of its files."""

from __future__ import annotations

from pathlib import Path

from studies.classification.data.class_selection import select_classes
from studies.classification.data.coding import build_labelled
from studies.classification.data.dataset import LabelledTexts
from studies.classification.data.source import LabelledSource
from studies.classification.protocol import ClassificationProtocol
from studies.data.source_cache import Notify, read_once
from studies.progress import SILENT, ProgressReporter


def load_labelled(
    section: LabelledSource, protocol: ClassificationProtocol, cache: Path, reporter: ProgressReporter = SILENT
) -> LabelledTexts:
    """Return the data of a study: its eligible classes, read from the source or from the cache.

    Args:
        section: The source with its keys.
        protocol: What a class must have.
        cache: Folder of the caches that all processes share.
        reporter: Receives a note for each slow step.

    Raises:
        InputError: No class is large enough, or the source cannot be read.
    """
    data = read_labelled(section, cache, reporter)
    for warning in data.warnings:
        reporter.note(f"warning: {warning}")
    return select_classes(data, section, protocol)


def read_labelled(section: LabelledSource, cache: Path, reporter: ProgressReporter = SILENT) -> LabelledTexts:
    """Return all data of a source, from the cache where the same files were read with the same keys before.

    Args:
        section: The source with its keys.
        cache: Folder of the caches that all processes share.
        reporter: Receives a note for each step where the files are large.

    Raises:
        InputError: A file is missing, cannot be read, or changes while it is read.
    """

    def read(notify: Notify) -> LabelledTexts:
        found = section.read()
        notify(f"coding {len(found.rows):,} rows")
        return build_labelled(found)

    return read_once(section, LabelledTexts, read, cache, reporter)
