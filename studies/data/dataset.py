"""The form every source's data takes: integer codes in numpy arrays, sorted by time.

A source hands its rows to `build`, which makes items of distinct texts, drops what cannot be used while counting
why, and fixes the order that every later tie-break relies on.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from studies.data.source import Tables

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Dataset:
    """Interactions and items of one shop.

    An item is one distinct text: products that no text tells apart are one item. A scene's catalogue lists the items
    that can be recommended there; scenes may share items, as stores do.

    Attributes:
        scenes: names of the scenes, ascending; a scene's code is its position.
        texts: (items,) text of each item, ascending.
        item_ids: (items,) the shop's own id of each item (the lowest of the products it stands for).
        products: (items,) how many of the shop's products share the text.
        user_ids: (users,) the shop's own id of each user, ascending.
        catalogue: item codes of all scenes, scene after scene, ascending within each.
        catalogue_start: (scenes + 1,) where each scene's part of the catalogue begins.
        user, item, scene, time: (interactions,) codes and UTC seconds, sorted by (time, user, item, scene); no row
            twice.
        rows_read: rows of the interaction log before anything was dropped.
        dropped: rows dropped, by reason.
        notes: what reading the data has shown, as whole sentences.
        fingerprint: SHA-256 of the contents: equal fingerprints give equal studies.
    """

    scenes: tuple[str, ...]
    texts: tuple[str, ...]
    item_ids: tuple[str, ...]
    products: Ints
    user_ids: tuple[str, ...]
    catalogue: Ints
    catalogue_start: Ints
    user: Ints
    item: Ints
    scene: Ints
    time: Ints
    rows_read: int
    dropped: Mapping[str, int]
    notes: tuple[str, ...] = ()
    fingerprint: str = ""

    @property
    def users(self) -> int:
        """Number of distinct users."""
        return len(self.user_ids)

    def items_of(self, scene: int) -> Ints:
        """(C,) item codes of a scene's catalogue, ascending."""
        return self.catalogue[self.catalogue_start[scene] : self.catalogue_start[scene + 1]]

    def items_in(self, scenes: Ints) -> Ints:
        """Item codes in the catalogue of any of `scenes`, ascending."""
        if len(scenes) == 0:
            return np.empty(0, dtype=np.int64)
        return np.unique(np.concatenate([self.items_of(int(scene)) for scene in scenes]))

    @property
    def scenes_share_items(self) -> bool:
        """Whether any item is in the catalogue of more than one scene."""
        return len(np.unique(self.catalogue)) < len(self.catalogue)

    def sealed(self) -> Dataset:
        """The same data with its fingerprint."""
        digest = hashlib.sha256()
        for strings in (self.scenes, self.texts, self.item_ids, self.user_ids):
            digest.update("\x1f".join(strings).encode())
            digest.update(b"\x1e")
        for array in (self.products, self.catalogue, self.catalogue_start, self.user, self.item, self.scene, self.time):
            digest.update(np.ascontiguousarray(array, dtype=np.int64).tobytes())
        return replace(self, fingerprint=digest.hexdigest())


def build(tables: Tables) -> Dataset:
    """Makes a `Dataset` of a source's rows."""
    by_log = "scene" in tables.interactions.columns
    # Ids as text: the same shop gives the same codes whether its ids were stored as numbers or not.
    items = tables.items.with_columns(pl.exclude("text").cast(pl.String), text=pl.col("text").str.strip_chars())
    log = tables.interactions.with_columns(pl.exclude("time").cast(pl.String), time=pl.col("time").cast(pl.Int64))
    needed = ["text"] if by_log else ["text", "scene"]
    usable = items.drop_nulls(needed).filter(pl.col("text") != "")
    merged = usable.group_by("text").agg(
        item_id=pl.col("product").min(), products=pl.col("product").n_unique().cast(pl.Int64)
    )
    distinct = merged.sort("text").with_row_index("item")
    codes = usable.join(distinct.select("text", pl.col("item").cast(pl.Int64)), on="text").drop("text")

    complete = log.drop_nulls(["user", "product", "time"])
    known = complete.join(items.select("product").unique(), on="product", how="semi")
    joined = known.join(codes, on="product").drop("product")
    placed = joined.drop_nulls("scene")
    names = (placed if by_log else codes)["scene"].unique().sort()
    rows = (
        placed.join(_coded("user", placed["user"].unique().sort()), on="user")
        .join(_coded("scene", names), on="scene")
        .select("item", "time", user="user_code", scene="scene_code")
        .unique()
        .sort("time", "user", "item", "scene")
    )
    pairs = rows if by_log else codes.join(_coded("scene", names), on="scene").rename({"scene_code": "code"})
    pairs = pairs.select("item", scene="scene" if by_log else "code").unique().sort("scene", "item")
    dropped = {
        **tables.dropped,
        "row without user, product or time": len(log) - len(complete),
        "product not in the catalogue": len(complete) - len(known),
        "product without text" if by_log else "product without scene or text": len(known) - len(joined),
        "row without a scene": len(joined) - len(placed),
        "same user, item and second twice": len(placed) - len(rows),
    }
    return Dataset(
        scenes=tuple(names),
        texts=tuple(distinct["text"]),
        item_ids=tuple(distinct["item_id"]),
        products=distinct["products"].to_numpy(),
        user_ids=tuple(placed["user"].unique().sort()),
        catalogue=pairs["item"].to_numpy(),
        catalogue_start=np.searchsorted(pairs["scene"].to_numpy(), np.arange(len(names) + 1)),
        user=rows["user"].to_numpy(),
        item=rows["item"].to_numpy(),
        scene=rows["scene"].to_numpy(),
        time=rows["time"].to_numpy(),
        rows_read=tables.rows_read,
        dropped={reason: count for reason, count in dropped.items() if count},
        notes=(*tables.notes, *_text_notes(len(items), len(usable), len(distinct))),
    ).sealed()


def _text_notes(products: int, usable: int, distinct: int) -> list[str]:
    notes = []
    if usable < products:
        notes.append(f"{products - usable:,} of {products:,} products have no text or no scene")
    if distinct < usable:
        notes.append(f"{usable:,} products have {distinct:,} distinct texts: products that share one are one item")
    return notes


def _coded(column: str, names: pl.Series) -> pl.DataFrame:
    """Names and their positions, as a table to join: columns `column` and `column_code`."""
    return pl.DataFrame({column: names}).with_row_index(f"{column}_code").cast({f"{column}_code": pl.Int64})


def keep_scenes(data: Dataset, codes: Ints, reason: str, *, every_item: bool = False) -> Dataset:
    """The same data with only the scenes in `codes`; rows of the others are counted under `reason`.

    Args:
        data: the data.
        codes: scenes to keep.
        reason: why the others go.
        every_item: keep items that are in no kept scene's catalogue too.
    """
    codes = np.sort(codes)
    kept = np.arange(len(data.texts)) if every_item else data.items_in(codes)
    new_item = np.full(len(data.texts), -1)
    new_item[kept] = np.arange(len(kept))
    new_scene = np.full(len(data.scenes), -1)
    new_scene[codes] = np.arange(len(codes))
    catalogues = [new_item[data.items_of(int(code))] for code in codes]
    smaller = replace(
        _keep_rows(data, np.isin(data.scene, codes), reason),
        scenes=tuple(data.scenes[code] for code in codes),
        texts=tuple(data.texts[i] for i in kept),
        item_ids=tuple(data.item_ids[i] for i in kept),
        products=data.products[kept],
        catalogue=np.concatenate(catalogues),
        catalogue_start=np.concatenate([[0], np.cumsum([len(items) for items in catalogues])]),
    )
    return replace(smaller, item=new_item[smaller.item], scene=new_scene[smaller.scene]).sealed()


def keep_first_takes(data: Dataset) -> Dataset:
    """The same data with only each user's first interaction with each item, for shops where nothing is taken twice."""
    _, first = np.unique(data.user * len(data.texts) + data.item, return_index=True)
    rows = np.zeros(len(data.time), dtype=bool)
    rows[first] = True
    return _keep_rows(data, rows, 'the user had the item before (protocol.repeat = "exclude")').sealed()


def _keep_rows(data: Dataset, rows: npt.NDArray[np.bool_], reason: str) -> Dataset:
    users, user = np.unique(data.user[rows], return_inverse=True)
    lost = int((~rows).sum())
    changes: dict[str, Any] = {name: getattr(data, name)[rows] for name in ("item", "scene", "time")}
    return replace(
        data,
        user=user.astype(np.int64),
        user_ids=tuple(data.user_ids[code] for code in users),
        dropped={**data.dropped, reason: lost} if lost else data.dropped,
        **changes,
    )
