"""The form that every source's data takes: integer codes in NumPy arrays, sorted by time.

`studies.data.coding` builds a `Dataset` from a source's rows. The order of its rows and items is fixed: every later
tie-break relies on it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
# How the reasons begin under which rows of small scenes are counted as dropped, and the reason of `max_scenes`.
BELOW = "scene with too few "
NOT_SAMPLED = "scene not in the sample of max_scenes"


@dataclass(frozen=True)
class Dataset:
    """Interactions and items of one shop.

    An item is one distinct text: products with the same text are one item. A scene's catalogue lists the items that
    can be recommended in it; scenes may share items, as stores do.

    Attributes:
        scenes: Names of the scenes, ascending; a scene's code is its position.
        texts: (items,) text of each item, ascending.
        item_ids: (items,) the shop's own id of each item: the lowest of its products' ids.
        products: (items,) number of the shop's products that share the text.
        user_ids: (users,) the shop's own id of each user, ascending.
        catalogue: Item codes of all scenes, scene after scene, ascending within each.
        catalogue_start: (scenes + 1,) where each scene's catalogue begins.
        user, item, scene, time: (interactions,) codes and UTC seconds, sorted by (time, user, item, scene), without
            duplicate rows.
        rows_read: Rows of the interaction log before any was dropped.
        dropped: Number of dropped rows, by reason.
        notes: Remarks on the data, as whole sentences.
        warnings: Remarks on what is probably wrong with the data, or with how they were read.
        fingerprint: SHA-256 of the contents. Equal fingerprints give equal studies.
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
    warnings: tuple[str, ...] = ()
    fingerprint: str = ""

    @property
    def users(self) -> int:
        """Return the number of distinct users."""
        return len(self.user_ids)

    @property
    def size(self) -> str:
        """Return how much there is, in words."""
        return (
            f"{len(self.time):,} interactions, {len(self.texts):,} items, {len(self.scenes)} scenes, "
            f"{self.users:,} users"
        )

    def items_of(self, scene: int) -> Ints:
        """Return the (C,) item codes of a scene's catalogue, ascending."""
        return self.catalogue[self.catalogue_start[scene] : self.catalogue_start[scene + 1]]

    def items_in(self, scenes: Ints) -> Ints:
        """Return the item codes in the catalogue of any of `scenes`, ascending."""
        if len(scenes) == 0:
            return np.empty(0, dtype=np.int64)
        return np.unique(np.concatenate([self.items_of(int(scene)) for scene in scenes]))

    @property
    def scenes_share_items(self) -> bool:
        """Return whether any item is in the catalogue of more than one scene."""
        return len(np.unique(self.catalogue)) < len(self.catalogue)

    def sealed(self) -> Dataset:
        """Return the same data with its fingerprint."""
        digest = hashlib.sha256()
        for strings in (self.scenes, self.texts, self.item_ids, self.user_ids):
            digest.update("\x1f".join(strings).encode())
            digest.update(b"\x1e")
        for array in (self.products, self.catalogue, self.catalogue_start, self.user, self.item, self.scene, self.time):
            digest.update(np.ascontiguousarray(array, dtype=np.int64).tobytes())
        return replace(self, fingerprint=digest.hexdigest())


def keep_scenes(data: Dataset, codes: Ints, reason: str, *, every_item: bool = False) -> Dataset:
    """Return the data of some scenes only.

    Args:
        data: All data.
        codes: Codes of the scenes to keep.
        reason: Reason under which the other scenes' rows are counted as dropped.
        every_item: Whether to keep items that are in no kept scene's catalogue.
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


def keep_first_interactions(data: Dataset) -> Dataset:
    """Return the data with only each user's first interaction with each item (`protocol.repeat = "exclude"`)."""
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
