"""Complete Journey as labelled texts: the categories of its products, or whether a household redeemed a coupon.

Of products, the category is the label and no part of the text, which joins type, brand and size; the type is the group,
since the products of one type have nearly the same text. Of coupons, see `studies/classification/data/redemptions.py`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import polars as pl
from pydantic import PositiveInt

from studies.classification.data.redemptions import FILES, read_redemptions
from studies.classification.data.source import LabelledRows, LabelledSource
from studies.data.completejourney import data_folder

_TEXT = ["product_type", "brand", "package_size"]


class LabelledCompleteJourney(LabelledSource):
    """The source `"completejourney"`: the categories of its products, or the redemptions of its coupons.

    Attributes:
        log: What is labelled: "products" with their categories, or "coupons", redeemed or not; a scene is a campaign.
        negatives: Of "coupons", how many that were not redeemed are sampled for each that was.
        max_redemptions: Of "coupons", most redemptions of a campaign, a random sample; all of them without it.
    """

    source: Literal["completejourney"]
    log: Literal["products", "coupons"] = "products"
    negatives: PositiveInt = 4
    max_redemptions: PositiveInt | None = None

    def files(self) -> list[Path]:
        """Return the files that are read.

        Raises:
            InputError: The data package is not installed.
        """
        names = FILES if self.log == "coupons" else ("products",)
        return [data_folder() / f"{name}.parquet" for name in names]

    def read(self) -> LabelledRows:
        """Read the rows; a product without a category is an unlabelled text."""
        if self.log == "coupons":
            return read_redemptions(data_folder(), self.negatives, self.max_redemptions)
        products = pl.read_parquet(self.files()[0])
        rows = products.select(
            text=pl.concat_str(_TEXT, separator=", ", ignore_nulls=True).str.to_lowercase(),
            label="product_category",
            group="product_type",
        )
        return LabelledRows(rows, rows_read=len(rows))
