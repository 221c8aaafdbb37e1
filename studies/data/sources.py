"""From `[data]` to a `Dataset` of the scenes worth a study."""

from __future__ import annotations

import hashlib

import numpy as np

from storage.errors import InputError
from studies.data import completejourney
from studies.data.dataset import Dataset, Ints, keep_scenes
from studies.spec import DataSection

SOURCES = {"completejourney": completejourney.load}


def load(section: DataSection) -> Dataset:
    """Reads the source and keeps the scenes with enough interactions, users and items.

    Raises:
        InputError: no scene is large enough, or the source cannot be read.
    """
    data = SOURCES[section.source]()
    fit = eligible(data, section)
    if len(fit) == 0:
        raise InputError(
            f"none of the {len(data.scenes)} scenes has min_interactions = {section.min_interactions}, "
            f"min_users = {section.min_users} and min_items = {section.min_items}; lower them in [data]"
        )
    data = keep_scenes(data, fit, "scene below min_interactions, min_users or min_items")
    if section.max_scenes is not None and section.max_scenes < len(data.scenes):
        sample = by_digest(data.scenes, seed=0)[: section.max_scenes]
        data = keep_scenes(data, sample, "scene not in the sample of max_scenes")
    return data


def eligible(data: Dataset, section: DataSection) -> Ints:
    """Codes of the scenes that reach all of the section's minima."""
    count = len(data.scenes)
    scene = data.item_scene[data.item]
    pairs = np.unique(np.stack([scene, data.user]), axis=1)
    enough = (
        (np.bincount(scene, minlength=count) >= section.min_interactions)
        & (np.bincount(pairs[0], minlength=count) >= section.min_users)
        & (np.bincount(data.item_scene, minlength=count) >= section.min_items)
    )
    return np.flatnonzero(enough)


def by_digest(names: tuple[str, ...], seed: int) -> Ints:
    """Positions of `names` in a random order that depends on each name and the seed alone.

    A scene keeps its place relative to the others when scenes are added, which a shuffle would not give.
    """
    digests = [hashlib.blake2b(f"{seed}\x1f{name}".encode(), digest_size=8).digest() for name in names]
    return np.array(sorted(range(len(names)), key=lambda i: digests[i]), dtype=np.int64)
