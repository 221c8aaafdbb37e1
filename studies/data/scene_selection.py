"""Selects the scenes that a study uses: those that reach the minima of `[data]`, at most `max_scenes` of them."""

from __future__ import annotations

import numpy as np
import polars as pl

from storage.errors import InputError
from studies.config.protocol_section import RankingProtocol
from studies.data.dataset import Dataset, Ints, keep_first_interactions, keep_scenes
from studies.data.digest_order import order_by_digest
from studies.data.source import InteractionSource


def select_scenes(data: Dataset, section: InteractionSource, protocol: RankingProtocol) -> Dataset:
    """Return the data of the scenes that a study uses, without repeats where the protocol excludes them.

    Args:
        data: All data of the source.
        section: The minima, and the most scenes.
        protocol: Whether repeated interactions count, and which items are candidates.

    Raises:
        InputError: No scene is large enough, or all interactions have the same time.
    """
    _check_log(data)
    if protocol.repeat == "exclude":
        data = keep_first_interactions(data)
    every_item = protocol.candidates == "all"
    eligible = eligible_scenes(data, section, every_item=every_item)
    if len(eligible) == 0:
        raise InputError(
            f"none of the {len(data.scenes)} scenes has min_interactions = {section.min_interactions}, "
            f"min_users = {section.min_users} and min_items = {section.min_items}; lower them in [data] "
            f"(the largest scene has {_largest(data)})"
        )
    reason = "scene below min_interactions, min_users or min_items"
    data = keep_scenes(data, eligible, reason, every_item=every_item)
    if section.max_scenes is not None and section.max_scenes < len(data.scenes):
        sample = order_by_digest(data.scenes, seed=0)[: section.max_scenes]
        data = keep_scenes(data, sample, "scene not in the sample of max_scenes", every_item=every_item)
    return data


def _check_log(data: Dataset) -> None:
    if len(data.time) == 0:
        reasons = "; ".join(f"{count:,}: {reason}" for reason, count in data.dropped.items())
        raise InputError(
            f"none of the {data.rows_read:,} rows of the log can be used ({reasons or 'it is empty'}); check the "
            "columns that [data] names: hpo data check shows what was read"
        )
    if data.time[0] == data.time[-1]:
        raise InputError(
            f"all {len(data.time):,} interactions are at one time ({data.time[0]} in UTC seconds), so they cannot be "
            "split into past and future; name the column of the interaction's own time in data.time"
        )


def eligible_scenes(data: Dataset, section: InteractionSource, *, every_item: bool = False) -> Ints:
    """Return the codes of the scenes that reach all minima of `[data]`, ascending.

    Args:
        data: All data of the source.
        section: The minima.
        every_item: Whether every item is a candidate in every scene.
    """
    sizes = _sizes(data)
    items = np.full(len(data.scenes), len(data.texts)) if every_item else sizes["items"].to_numpy()
    enough = (
        (sizes["interactions"].to_numpy() >= section.min_interactions)
        & (sizes["users"].to_numpy() >= section.min_users)
        & (items >= section.min_items)
    )
    return np.flatnonzero(enough)


def _sizes(data: Dataset) -> pl.DataFrame:
    """Return the interactions, users and items of each scene, in order of codes."""
    log = pl.DataFrame({"scene": data.scene, "user": data.user})
    counted = log.group_by("scene").agg(interactions=pl.len(), users=pl.col("user").n_unique())
    sizes = pl.DataFrame({"scene": np.arange(len(data.scenes)), "items": np.diff(data.catalogue_start)})
    return sizes.join(counted, on="scene", how="left", maintain_order="left").fill_null(0)


def _largest(data: Dataset) -> str:
    row = _sizes(data).sort("interactions").tail(1).to_dicts()[0]
    return f"{row['interactions']} interactions, {row['users']} users, {row['items']} items"
