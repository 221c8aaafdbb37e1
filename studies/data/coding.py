"""Turns a source's `Tables` into a `Dataset`: items of distinct texts, integer codes, rows in a fixed order.

Rows that cannot be used are dropped and counted by reason.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

from studies.data.dataset import Dataset
from studies.data.source import Tables
from studies.data.text_columns import normalise_column
from studies.text_form import LONGEST


def build_dataset(tables: Tables) -> Dataset:
    """Return the `Dataset` of a source's rows."""
    scene_in_log = "scene" in tables.interactions.columns
    catalogue = _code_items(tables.items, scene_in_log)
    log, dropped = _place_log(tables, catalogue, scene_in_log)
    scenes = (log if scene_in_log else catalogue.products)["scene"].unique().sort()
    users = log["user"].unique().sort()
    rows = (
        log.join(_code_table("user", users), on="user")
        .join(_code_table("scene", scenes), on="scene")
        .select("item", "time", user="user_code", scene="scene_code")
        .unique()
        .sort("time", "user", "item", "scene")
    )
    dropped["same user, item and second twice"] = len(log) - len(rows)
    pairs = rows.select("item", "scene") if scene_in_log else _pair_items_with_scenes(catalogue.products, scenes)
    if tables.offers is not None:
        offers = tables.offers.cast(pl.String).join(catalogue.products.select("product", "item"), on="product")
        pairs = pl.concat([pairs, _pair_items_with_scenes(offers, scenes)])
    pairs = pairs.unique().sort("scene", "item")
    return Dataset(
        scenes=tuple(scenes),
        texts=tuple(catalogue.items["text"]),
        item_ids=tuple(catalogue.items["item_id"]),
        products=catalogue.items["products"].to_numpy(),
        user_ids=tuple(users),
        catalogue=pairs["item"].to_numpy(),
        catalogue_start=np.searchsorted(pairs["scene"].to_numpy(), np.arange(len(scenes) + 1)),
        user=rows["user"].to_numpy(),
        item=rows["item"].to_numpy(),
        scene=rows["scene"].to_numpy(),
        time=rows["time"].to_numpy(),
        rows_read=tables.rows_read,
        dropped={reason: count for reason, count in dropped.items() if count},
        notes=(*tables.notes, *catalogue.notes()),
        warnings=tables.warnings,
    ).sealed()


@dataclass(frozen=True)
class _Catalogue:
    """The products of a source and the items that they stand for.

    Attributes:
        known: Ids of all products, usable or not: column `product`.
        products: One row per usable product: its columns without the text, and its `item` code.
        items: One row per distinct text, ascending: `item` code, `text`, `item_id`, number of `products`.
        cut: Number of products whose text was too long.
    """

    known: pl.DataFrame
    products: pl.DataFrame
    items: pl.DataFrame
    cut: int

    def notes(self) -> list[str]:
        """Return sentences on products that are left out or merged."""
        known, usable, distinct = len(self.known), len(self.products), len(self.items)
        notes = []
        if self.cut:
            texts = "text is" if self.cut == 1 else "texts are"
            notes.append(f"{self.cut:,} {texts} longer than {LONGEST:,} characters; the rest of it is left out")
        if usable < known:
            notes.append(f"{known - usable:,} of {known:,} products have no text or no scene")
        if distinct < usable:
            notes.append(f"{usable:,} products have {distinct:,} distinct texts: products that share one are one item")
        return notes


def _code_items(products: pl.DataFrame, scene_in_log: bool) -> _Catalogue:
    # Ids as text: the same shop gets the same codes whether its ids are stored as numbers or as text.
    items = products.with_columns(pl.exclude("text").cast(pl.String), normalise_column(products["text"]))
    usable = items.drop_nulls(["text"] if scene_in_log else ["text", "scene"]).filter(pl.col("text") != "")
    merged = usable.group_by("text").agg(
        item_id=pl.col("product").min(), products=pl.col("product").n_unique().cast(pl.Int64)
    )
    distinct = merged.sort("text").with_row_index("item")
    codes = usable.join(distinct.select("text", pl.col("item").cast(pl.Int64)), on="text").drop("text")
    cut = int((products["text"].str.len_chars() > LONGEST).sum())
    return _Catalogue(items.select("product"), codes, distinct, cut)


def _place_log(tables: Tables, catalogue: _Catalogue, scene_in_log: bool) -> tuple[pl.DataFrame, dict[str, int]]:
    """Return the log's usable rows with their item and scene, and the number of dropped rows by reason."""
    log = tables.interactions.with_columns(pl.exclude("time").cast(pl.String), time=pl.col("time").cast(pl.Int64))
    complete = log.drop_nulls(["user", "product", "time"])
    known = complete.join(catalogue.known.unique(), on="product", how="semi")
    joined = known.join(catalogue.products, on="product").drop("product")
    placed = joined.drop_nulls("scene")
    dropped = {
        **tables.dropped,
        "row without user, product or time": len(log) - len(complete),
        "product not in the catalogue": len(complete) - len(known),
        "product without text" if scene_in_log else "product without scene or text": len(known) - len(joined),
        "row without a scene": len(joined) - len(placed),
    }
    return placed, dropped


def _pair_items_with_scenes(products: pl.DataFrame, scenes: pl.Series) -> pl.DataFrame:
    return products.join(_code_table("scene", scenes), on="scene").select("item", scene="scene_code")


def _code_table(column: str, names: pl.Series) -> pl.DataFrame:
    """Return a table to join by: `column` with the names, `column_code` with their positions."""
    return pl.DataFrame({column: names}).with_row_index(f"{column}_code").cast({f"{column}_code": pl.Int64})
