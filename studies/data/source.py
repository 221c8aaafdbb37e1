"""The interface of all data sources: the keys of `[data]` that they share, and the tables that they return.

A source of interactions is a subclass of `InteractionSource` with its own keys, `files` and `read`. Registering it in
`studies/data/sources.py` makes it a value of `data.source`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import polars as pl
from pydantic import PositiveInt, ValidationInfo

from studies.config.search_domains import Section


@dataclass(frozen=True)
class Tables:
    """The rows of a source, not yet coded as integers.

    Attributes:
        interactions: Columns `user`, `product` (ids of any type, not null) and `time` (UTC seconds, not null). It has a
            column `scene` (null where the row has none) where each interaction has a scene of its own, such as a store.
        items: One row per product: columns `product` (of the same type), `text` (null where there is none) and, where
            the log has none, `scene` (null where the product has none).
        rows_read: Rows of the log before any was dropped.
        dropped: Number of rows that the source dropped, by reason.
        notes: Remarks on the data, as whole sentences.
        offers: One row per product on offer in a scene of the log, taken or not: columns `product` and `scene`.
            Without it, a scene of the log offers what was ever taken in it.
        warnings: Remarks on what is probably wrong with the data, or with how they were read.
    """

    interactions: pl.DataFrame
    items: pl.DataFrame
    rows_read: int
    dropped: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    offers: pl.DataFrame | None = None
    warnings: tuple[str, ...] = ()


class Source(Section):
    """The keys of `[data]` that every source of every task takes.

    `paths` lists the keys that hold paths. They may change between launches of one study: the contents of the files
    identify the data. `selecting` lists the keys that select from what was read: reading does not depend on them.
    `examples` has a value, as TOML, of each key that is required.

    Attributes:
        source: Where the data come from.
    """

    paths: ClassVar[frozenset[str]] = frozenset()
    selecting: ClassVar[frozenset[str]] = frozenset()
    examples: ClassVar[Mapping[str, str]] = {}

    source: str

    @abstractmethod
    def files(self) -> list[Path]:
        """Return the files that are read.

        Raises:
            InputError: A file is missing.
        """


class InteractionSource(Source):
    """A source of interactions: the minima of a scene, and the most scenes.

    Minima that are left out follow from the protocol (`studies/data/scene_minima.py`).

    Attributes:
        min_interactions: Fewest interactions of a scene; smaller scenes are left out. Without it, `openings` ×
            (`shots` + 1).
        min_users: Fewest users of a scene. Without it, `shots` + 1; 1 where each user is a scene.
        min_items: Fewest candidates of a scene. Without it, 2 × `k`.
        max_scenes: Most scenes; where there are more, a stable sample is used. Without it, all of them.
    """

    selecting: ClassVar[frozenset[str]] = frozenset({"min_interactions", "min_users", "min_items", "max_scenes"})

    min_interactions: PositiveInt | None = None
    min_users: PositiveInt | None = None
    min_items: PositiveInt | None = None
    max_scenes: PositiveInt | None = None

    @abstractmethod
    def read(self) -> Tables:
        """Read the shop's data.

        Raises:
            InputError: The data cannot be read as the study file says; the message names file, column and remedy.
        """

    @property
    def scene_is_user(self) -> bool:
        """Return whether each user is a scene."""
        return False


def absolute_paths(value: Any, info: ValidationInfo) -> list[str]:
    """Return the paths of a key as a list; relative ones start at the study file's folder.

    Args:
        value: Of the key: a path, or a list of them.
        info: Of pydantic's field validator.

    Raises:
        ValueError: It is neither.
    """
    paths = value if isinstance(value, list) else [value]
    if not paths or not all(isinstance(path, str | Path) and str(path) for path in paths):
        raise ValueError(f'takes a path or a list of paths, such as "log.csv", got {value!r}')
    folder = (info.context or {}).get("folder") or Path()
    return [str(Path(folder, Path(path).expanduser()).absolute()) for path in paths]
