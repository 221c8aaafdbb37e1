"""What every source of data has in common: the keys of `[data]`, and the two tables it hands over.

A source is one file of this folder: a subclass of `Source` with its own keys, `files` and `read`. Listing it in
`studies/data/sources.py` makes it a value of `data.source`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from pydantic import PositiveInt

from studies.config.search_domains import Section

if TYPE_CHECKING:
    import polars as pl


@dataclass(frozen=True)
class Tables:
    """A source's rows, not yet coded.

    Attributes:
        interactions: columns `user`, `product` (ids of any type, not null) and `time` (UTC seconds, not null); with
            a column `scene` (null where the row has none) where scenes are a matter of the log, as stores are.
        items: one row per product: columns `product` (of the same type), `text` (null where there is none) and, where
            the log has none, `scene` (null where the product has none).
        rows_read: rows of the log before anything was dropped.
        dropped: rows that the source left out, by reason.
        notes: what else is worth knowing, as whole sentences.
    """

    interactions: pl.DataFrame
    items: pl.DataFrame
    rows_read: int
    dropped: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


class Source(Section):
    """The keys of `[data]` that every source takes: which scenes are worth a study.

    `paths` names the keys that say where files are: they may change under one study, since the bytes are what counts.
    """

    paths: ClassVar[frozenset[str]] = frozenset()

    source: str
    min_interactions: PositiveInt = 500
    min_users: PositiveInt = 100
    min_items: PositiveInt = 40
    max_scenes: PositiveInt | None = None

    @abstractmethod
    def files(self) -> list[Path]:
        """The files whose bytes decide what `read` gives.

        Raises:
            InputError: one is missing.
        """

    @abstractmethod
    def read(self) -> Tables:
        """Reads the shop's data.

        Raises:
            InputError: they cannot be read as the study file says; the message names file, column and remedy.
        """

    @property
    def scene_is_user(self) -> bool:
        """Whether each user is a scene."""
        return False
