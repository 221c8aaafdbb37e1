"""A planted data set of labelled texts: products whose room and noun are the class, among words that say nothing."""

import itertools

import numpy as np
import polars as pl

from studies.classification.data.coding import build_labelled
from studies.classification.data.dataset import LabelledTexts
from studies.classification.data.source import LabelledRows
from tests.synthetic import BRANDS, COLOURS, NOUNS, ROOMS, SIZES


def planted_rows(
    classes: int = 30, per_class: int = 24, unlabelled: int = 34, scenes: bool = False, seed: int = 0
) -> LabelledRows:
    """Texts such as "red acme small kitchen lamp" of the class "kitchen lamp"; the brand within a class is the group.

    Colour, brand and size are the same in all classes, so that a model that learns to ignore them classifies better.

    Args:
        classes: number of classes, at most 64.
        per_class: texts of each class, at most 108.
        unlabelled: texts without a label, of the classes after these.
        scenes: whether the noun is the scene.
        seed: of the choice of texts.
    """
    rng = np.random.default_rng(seed)
    kinds = list(itertools.product(NOUNS, ROOMS))
    forms = list(itertools.product(COLOURS, BRANDS, SIZES))
    rows: list[dict[str, str | None]] = []
    for number, (noun, room) in enumerate(kinds):
        count = per_class if number < classes else unlabelled // (len(kinds) - classes) if classes < len(kinds) else 0
        for colour, brand, size in (forms[i] for i in rng.choice(len(forms), count, replace=False)):
            text = f"{colour} {brand} {size} {room} {noun}"
            label = f"{room} {noun}" if number < classes else None
            rows.append({"text": text, "label": label, "group": f"{brand} {room} {noun}", "scene": noun})
    frame = pl.DataFrame(rows, schema={"text": pl.String, "label": pl.String, "group": pl.String, "scene": pl.String})
    return LabelledRows(frame if scenes else frame.drop("scene"), rows_read=len(frame))


def planted_texts(
    classes: int = 30, per_class: int = 24, unlabelled: int = 34, scenes: bool = False, seed: int = 0
) -> LabelledTexts:
    """The data of `planted_rows`."""
    return build_labelled(planted_rows(classes, per_class, unlabelled, scenes, seed))


def planted_scenes(scenes: int = 12, per_class: int = 6) -> LabelledRows:
    """Texts of `planted_rows`, the room as label, in stores that open one after the other and close some time later.

    Args:
        scenes: number of stores.
        per_class: texts of each of the eight rooms in a store.
    """
    nouns = -(-scenes * per_class // 108)
    rows = planted_rows(classes=8 * nouns, per_class=scenes * per_class // nouns, unlabelled=0).rows
    rows = rows.select("text", label=pl.col("label").str.split(" ").list.first())
    number = pl.int_range(pl.len()).shuffle(seed=0).over("label")
    rows = rows.with_columns(store=number % scenes, turn=number // scenes)
    hour = 100 * pl.col("store") + 20 * pl.col("turn") + pl.int_range(pl.len()) % 17
    rows = rows.with_columns(scene=pl.format("store {}", pl.col("store")), time=3600 * hour)
    return LabelledRows(rows.drop("store", "turn"), rows_read=len(rows))


def coded(*rows: tuple[str, str | None], **columns: list[str | None]) -> LabelledTexts:
    """Rows of a text and a label, and of other columns, as data."""
    frame = pl.DataFrame(rows, schema={"text": pl.String, "label": pl.String}, orient="row")
    frame = frame.with_columns(pl.Series(name, values, dtype=pl.String) for name, values in columns.items())
    return build_labelled(LabelledRows(frame, rows_read=len(frame)))
