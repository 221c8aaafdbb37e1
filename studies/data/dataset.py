"""The form every source's data takes: integer codes in numpy arrays, sorted by time.

A source hands its rows to `build`, which makes items of distinct texts, drops what cannot be used while counting
why, and fixes the order that every later tie-break relies on.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Dataset:
    """Interactions and items of one shop.

    An item is one distinct text within one scene: products that no text tells apart are one item.

    Attributes:
        scenes: names of the scenes; a scene's code is its position.
        texts: (items,) text of each item.
        item_ids: (items,) the shop's own id of each item (the lowest of the products it stands for).
        item_scene: (items,) scene code of each item, ascending.
        user, item, time: (interactions,) codes and UTC seconds, sorted by (time, user, item), no row twice.
        rows_read: rows of the interaction log before anything was dropped.
        dropped: rows dropped, by reason.
        fingerprint: SHA-256 of everything above: equal fingerprints give equal studies.
    """

    scenes: tuple[str, ...]
    texts: tuple[str, ...]
    item_ids: tuple[str, ...]
    item_scene: Ints
    user: Ints
    item: Ints
    time: Ints
    rows_read: int
    dropped: Mapping[str, int]
    fingerprint: str

    @property
    def users(self) -> int:
        """Number of distinct users."""
        return len(np.unique(self.user))


def build(interactions: pl.DataFrame, items: pl.DataFrame) -> Dataset:
    """Makes a `Dataset` of a source's rows.

    Args:
        interactions: columns `user`, `product` (any type) and `time` (UTC seconds).
        items: columns `product`, `scene`, `text`; one row per product.
    """
    usable = items.filter(pl.col("scene").is_not_null() & (pl.col("text").str.strip_chars() != ""))
    # Scenes as text first: numbers would be coded in another order than they are sorted in.
    usable = usable.with_columns(pl.col("scene").cast(pl.String))
    # Sorted by scene, then text: item codes of a scene are contiguous and stable under reordered input.
    catalogue = (
        usable.group_by("scene", "text")
        .agg(pl.col("product").min().cast(pl.String).alias("item_id"))
        .sort("scene", "text")
        .with_row_index("item")
    )
    codes = usable.join(catalogue, on=["scene", "text"]).select("product", pl.col("item").cast(pl.Int64))
    complete = interactions.drop_nulls(["user", "product", "time"])
    known = complete.join(items.select("product"), on="product", how="semi")
    joined = known.join(codes, on="product")
    log = joined.select("user", "item", "time").unique()
    users = log.select("user").unique().sort("user").with_row_index("code")
    log = log.join(users, on="user").select(
        pl.col("code").cast(pl.Int64).alias("user"), "item", pl.col("time").cast(pl.Int64)
    )
    log = log.sort("time", "user", "item")
    dropped = {
        "row without user, product or time": len(interactions) - len(complete),
        "product not in the catalogue": len(complete) - len(known),
        "product without scene or text": len(known) - len(joined),
        "same user, item and second twice": len(joined) - len(log),
    }
    scenes = catalogue["scene"].unique().sort()
    scene_code = {name: code for code, name in enumerate(scenes)}
    return _finish(
        scenes=tuple(scenes),
        texts=tuple(catalogue["text"]),
        item_ids=tuple(catalogue["item_id"]),
        item_scene=np.array([scene_code[name] for name in catalogue["scene"]], dtype=np.int64),
        user=log["user"].to_numpy(),
        item=log["item"].to_numpy(),
        time=log["time"].to_numpy(),
        rows_read=len(interactions),
        dropped={reason: rows for reason, rows in dropped.items() if rows},
    )


def keep_scenes(data: Dataset, codes: Ints, reason: str) -> Dataset:
    """The same data with only the scenes in `codes`; rows of the others are counted under `reason`."""
    keep_item = np.isin(data.item_scene, codes)
    new_item = np.cumsum(keep_item) - 1
    new_scene = np.full(len(data.scenes), -1)
    new_scene[np.sort(codes)] = np.arange(len(codes))
    rows = keep_item[data.item]
    kept = np.flatnonzero(keep_item)
    users, user = np.unique(data.user[rows], return_inverse=True)
    del users
    return _finish(
        scenes=tuple(data.scenes[code] for code in np.sort(codes)),
        texts=tuple(data.texts[i] for i in kept),
        item_ids=tuple(data.item_ids[i] for i in kept),
        item_scene=new_scene[data.item_scene[kept]],
        user=user.astype(np.int64),
        item=new_item[data.item[rows]],
        time=data.time[rows],
        rows_read=data.rows_read,
        dropped={**data.dropped, reason: int((~rows).sum())},
    )


def _finish(
    *,
    scenes: tuple[str, ...],
    texts: tuple[str, ...],
    item_ids: tuple[str, ...],
    item_scene: Ints,
    user: Ints,
    item: Ints,
    time: Ints,
    rows_read: int,
    dropped: Mapping[str, int],
) -> Dataset:
    digest = hashlib.sha256()
    for strings in (scenes, texts, item_ids):
        digest.update("\x1f".join(strings).encode())
        digest.update(b"\x1e")
    for array in (item_scene, user, item, time):
        digest.update(np.ascontiguousarray(array, dtype=np.int64).tobytes())
    return Dataset(
        scenes=scenes,
        texts=texts,
        item_ids=item_ids,
        item_scene=item_scene.astype(np.int64),
        user=user.astype(np.int64),
        item=item.astype(np.int64),
        time=time.astype(np.int64),
        rows_read=rows_read,
        dropped=dropped,
        fingerprint=digest.hexdigest(),
    )
