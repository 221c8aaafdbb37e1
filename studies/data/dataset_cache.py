"""Caches a `Dataset` on disk as parquet files and one JSON file, so that a later start takes seconds."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl

from storage.files.cache_entries import intact, new_entry
from studies.data.dataset import Dataset

# Increase it whenever the stored form changes, or how a source's rows become a data set.
FORMAT = 4


def save(data: Dataset, folder: Path) -> None:
    """Write `data` to `folder` atomically, replacing an earlier entry."""
    with new_entry(folder) as draft:
        columns = {"user": data.user, "item": data.item, "scene": data.scene, "time": data.time}
        pl.DataFrame(columns).write_parquet(draft / "log.parquet")
        items = {"text": data.texts, "item_id": data.item_ids, "products": data.products}
        pl.DataFrame(items).write_parquet(draft / "items.parquet")
        pl.DataFrame({"user_id": data.user_ids}).write_parquet(draft / "users.parquet")
        pl.DataFrame({"item": data.catalogue}).write_parquet(draft / "catalogue.parquet")
        about = {
            "scenes": data.scenes,
            "catalogue_start": data.catalogue_start.tolist(),
            "rows_read": data.rows_read,
            "dropped": dict(data.dropped),
            "notes": data.notes,
            "warnings": data.warnings,
            "fingerprint": data.fingerprint,
        }
        (draft / "about.json").write_text(json.dumps(about), encoding="utf-8")


def load(folder: Path) -> Dataset | None:
    """Return the data set that `save` wrote, or None where there is none or it was altered."""
    if not intact(folder):
        return None
    about = json.loads((folder / "about.json").read_bytes())
    log = pl.read_parquet(folder / "log.parquet")
    items = pl.read_parquet(folder / "items.parquet")
    return Dataset(
        scenes=tuple(about["scenes"]),
        texts=tuple(items["text"]),
        item_ids=tuple(items["item_id"]),
        products=items["products"].to_numpy(),
        user_ids=tuple(pl.read_parquet(folder / "users.parquet")["user_id"]),
        catalogue=pl.read_parquet(folder / "catalogue.parquet")["item"].to_numpy(),
        catalogue_start=np.array(about["catalogue_start"], dtype=np.int64),
        user=log["user"].to_numpy(),
        item=log["item"].to_numpy(),
        scene=log["scene"].to_numpy(),
        time=log["time"].to_numpy(),
        rows_read=about["rows_read"],
        dropped=about["dropped"],
        notes=tuple(about["notes"]),
        warnings=tuple(about["warnings"]),
        fingerprint=about["fingerprint"],
    )
