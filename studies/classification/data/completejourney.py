"""The products of Complete Journey as labelled texts: the category of a product, from its type, brand and size.

The category is the label and no part of the text. A product's type is its group: the products of one type have nearly
the same text.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import polars as pl

from studies.classification.data.source import LabelledRows, LabelledSource
from studies.data.completejourney import data_folder

_TEXT = ["product_type", "brand", "package_size"]


class LabelledCompleteJourney(LabelledSource):
    """The source `"completejourney"`, without keys of its own."""

    source: Literal["completejourney"]

    def files(self) -> list[Path]:
        """Return the file of products.

        Raises:
            InputError: The data package is not installed.
        """
        return [data_folder() / "products.parquet"]

    def read(self) -> LabelledRows:
        """Read the products; one without a category is an unlabelled text."""
        products = pl.read_parquet(self.files()[0])
        rows = products.select(
            text=pl.concat_str(_TEXT, separator=", ", ignore_nulls=True).str.to_lowercase(),
            label="product_category",
            group="product_type",
        )
        return LabelledRows(rows, rows_read=len(rows))
