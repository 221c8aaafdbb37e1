"""The coupons of Complete Journey as labelled pairs of texts: a household's history and a coupon, redeemed or not.

A scene is a campaign. The history holds what the household bought before the campaign began: the product types that
tell it apart most from other households (TF-IDF), since an encoder reads a few dozen words. Redemptions are rare, so
the coupons that were not redeemed are sampled as the controls of a nested case-control study are: for each redemption,
some coupons of the campaign that a household of the campaign did not redeem, as of the same day.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl

from studies.classification.data.source import LabelledRows
from studies.data.completejourney import coupon_texts
from studies.text_form import PAIR

FILES = ("products", "coupons", "coupon_redemptions", "campaigns", "campaign_descriptions", "transactions")
LABELS = ("not redeemed", "redeemed")
# Product types of a history.
TYPES = 6
# Days of purchases before a campaign without which it is left out.
_DAYS = 28


def read_redemptions(folder: Path, negatives: int, most: int | None = None) -> LabelledRows:
    """Read redemptions, and sample coupons that were not redeemed.

    Args:
        folder: Of the package's files.
        negatives: Coupons that were not redeemed, for each that was.
        most: Most redemptions of a campaign, a random sample; all of them if left out.
    """
    products, coupons, redemptions, members, campaigns, transactions = (
        pl.read_parquet(folder / f"{name}.parquet") for name in FILES
    )
    texts = coupon_texts(coupons, products).drop_nulls("text")
    offered = coupons.select("campaign_id", "coupon_upc").join(texts, on="coupon_upc").drop("coupon_upc").unique()
    redeemed = redemptions.join(texts, on="coupon_upc").group_by("campaign_id", "household_id", "text")
    positives = redeemed.agg(time=pl.col("redemption_date").min().dt.epoch("s"))
    bought = transactions.select("household_id", "product_id", "transaction_timestamp").join(
        products.select("product_id", type=pl.col("product_type").str.to_lowercase()).drop_nulls(), on="product_id"
    )
    begin = bought["transaction_timestamp"].min() + pl.duration(days=_DAYS)
    frames = []
    for campaign, start in (
        campaigns.filter(pl.col("start_date") > begin)
        .sort("campaign_id")
        .select("campaign_id", "start_date")
        .iter_rows()
    ):
        of_campaign = pl.col("campaign_id") == campaign
        own = positives.filter(of_campaign).drop("campaign_id").sort("time", "household_id", "text")
        pairs = (
            members.filter(of_campaign)
            .select("household_id")
            .join(offered.filter(of_campaign).select("text"), how="cross")
        )
        rows = pl.concat(_labelled(own, pairs, negatives, most, campaign))
        history = histories(bought.filter(pl.col("transaction_timestamp") < start))
        frames.append(rows.join(history, on="household_id").with_columns(scene=pl.lit(f"campaign {campaign:02}")))
    rows = pl.concat(frames)
    pair = pl.concat_str("history", pl.lit(f" {PAIR} "), "text")
    note = (
        f"Of the coupons that were not redeemed, {negatives} are sampled for each that was; a campaign that begins "
        f"within {_DAYS} days of the first purchase is left out."
    )
    return LabelledRows(rows.select("label", "scene", "time", text=pair), len(redemptions), notes=(note,))


def _labelled(
    redeemed: pl.DataFrame, pairs: pl.DataFrame, negatives: int, most: int | None, seed: int
) -> Iterator[pl.DataFrame]:
    """Yield a campaign's redemptions, and a sample of its other pairs of household and coupon, at the same times."""
    rng = np.random.default_rng(seed)
    own = redeemed[np.sort(rng.permutation(len(redeemed))[:most])]
    yield own.with_columns(label=pl.lit(LABELS[1]))
    others = pairs.join(redeemed, on=["household_id", "text"], how="anti").sort("household_id", "text")
    drawn = rng.permutation(len(others))[: negatives * len(own)]
    time = np.tile(own["time"].to_numpy(), negatives)[: len(drawn)]
    yield others[drawn].with_columns(time=pl.Series(time, dtype=pl.Int64), label=pl.lit(LABELS[0]))


def histories(bought: pl.DataFrame) -> pl.DataFrame:
    """Return the history of each household: its product types by purchases times inverse household frequency.

    Args:
        bought: Purchases, `household_id` and `type`.
    """
    counts = bought.group_by("household_id", "type").agg(count=pl.len())
    households = bought["household_id"].n_unique()
    weight = pl.col("count") * (households / pl.len().over("type")).log()
    ranked = counts.with_columns(weight=weight).sort("weight", "type", descending=[True, False])
    return ranked.group_by("household_id").agg(history=pl.col("type").head(TYPES).str.join(", "))
