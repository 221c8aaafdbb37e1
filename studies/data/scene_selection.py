"""Selects the scenes that a study uses: those that reach the minima of `[data]`, at most `max_scenes` of them."""

from __future__ import annotations

from dataclasses import replace

from storage.errors import InputError
from studies.config.protocol_section import RankingProtocol
from studies.data.dataset import BELOW, NOT_SAMPLED, Dataset, Ints, keep_first_interactions, keep_scenes
from studies.data.digest_order import order_by_digest
from studies.data.scene_minima import (
    Minima,
    SmallScenes,
    derive_minima,
    eligible_scenes,
    floors,
    group_small_scenes,
    scene_sizes,
)
from studies.data.source import InteractionSource


def select_scenes(data: Dataset, section: InteractionSource, protocol: RankingProtocol) -> Dataset:
    """Return the data of the scenes that a study uses, without repeats where the protocol excludes them.

    Args:
        data: All data of the source.
        section: The minima, and the most scenes.
        protocol: Whether repeated interactions count, which items are candidates, and the minima's defaults.

    Raises:
        InputError: No scene is large enough, or all interactions have the same time.
    """
    _check_log(data)
    data, every_item = _without_repeats(data, protocol), protocol.candidates == "all"
    sizes, minima = scene_sizes(data, every_item=every_item), derive_minima(section, protocol)
    small = group_small_scenes(sizes, minima, floors(protocol))
    if len(eligible := eligible_scenes(sizes, minima)) == 0:
        raise InputError(_none_left(sizes, minima, small))
    dropped = {**data.dropped, **{group.reason: group.rows for group in small if group.rows}}
    data = replace(keep_scenes(data, eligible, BELOW, every_item=every_item), dropped=dropped)
    if section.max_scenes is not None and section.max_scenes < len(data.scenes):
        sample = order_by_digest(data.scenes, seed=0)[: section.max_scenes]
        data = keep_scenes(data, sample, NOT_SAMPLED, every_item=every_item)
    return data


def small_scenes(data: Dataset, section: InteractionSource, protocol: RankingProtocol) -> list[SmallScenes]:
    """Return the scenes that `select_scenes` leaves out for a minimum, by the minima that they miss."""
    sizes = scene_sizes(_without_repeats(data, protocol), every_item=protocol.candidates == "all")
    return group_small_scenes(sizes, derive_minima(section, protocol), floors(protocol))


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


def _without_repeats(data: Dataset, protocol: RankingProtocol) -> Dataset:
    return keep_first_interactions(data) if protocol.repeat == "exclude" else data


def _none_left(sizes: Ints, minima: Minima, small: list[SmallScenes]) -> str:
    required = ", ".join(f"{name} = {value}" for name, value in minima._asdict().items())
    interactions, users, items = sizes[sizes[:, 0].argmax()]
    largest = f"the largest scene has {interactions} interactions, {users} users, {items} items"
    advice = [f"{group.advice()} ({group.scenes:,} of the scenes)" for group in small if group.keeps_all]
    return f"none of the {len(sizes)} scenes has {required} ({largest}); " + (
        f"lower them in [data] to {'; or to '.join(advice)}"
        if advice
        else "lower values keep none either, since no scene has a support, a later query and more than protocol.k "
        "items: lower protocol.shots or protocol.k, or name a column with fewer values in data.scene"
    )
