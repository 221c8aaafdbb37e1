"""The interface of labelled sources: the keys of `[data]` that they share, and the rows that they return.

A source is a subclass of `LabelledSource` with its own keys, `files` and `read`. Registering it in
`studies/classification/data/sources.py` makes it a value of `data.source`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import polars as pl
from pydantic import PositiveInt

from studies.data.source import Source


@dataclass(frozen=True)
class LabelledRows:
    """The rows of a labelled source, not yet coded as integers.

    Attributes:
        rows: Columns `text` (null where there is none) and `label` (null where the row has none), and where the source
            has them `group`, `scene` (null where the row has none) and `time` (UTC seconds).
        rows_read: Rows before any was dropped.
        dropped: Number of rows that the source dropped, by reason.
        notes: Remarks on the data, as whole sentences.
        warnings: Remarks on what is probably wrong with the data, or with how they were read.
    """

    rows: pl.DataFrame
    rows_read: int
    dropped: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


class LabelledSource(Source):
    """The keys of `[data]` that every labelled source takes.

    Attributes:
        max_classes: Most classes of the study, a sample that stays when classes are added; all of them without it.
    """

    selecting: ClassVar[frozenset[str]] = frozenset({"max_classes"})

    max_classes: PositiveInt | None = None

    @abstractmethod
    def read(self) -> LabelledRows:
        """Read the texts and their labels.

        Raises:
            InputError: The data cannot be read as the study file says; the message names file, column and remedy.
        """
