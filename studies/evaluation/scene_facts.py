"""What is known of the scenes and queries that a ranking study is scored on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import torch

from studies.data.dataset import Dataset
from studies.episodes.episode import Episode
from studies.episodes.split import Split, SplitName
from studies.evaluation.figures import SceneFacts


def scene_facts(
    data: Dataset,
    split: Split,
    part: SplitName,
    episodes: Sequence[Episode],
    vectors: torch.Tensor,
    *,
    every_item: bool,
) -> dict[str, SceneFacts]:
    """Return, per scene, its candidates, its queries, and how similar it is to a training scene.

    Args:
        data: The shop.
        split: Its scenes in parts.
        part: Whose scenes.
        episodes: Those of the main figures. A scene without any has no query, but may have some at fewer shots.
        vectors: (items, D) embeddings of the untrained encoder; the cosine of two scenes is that of their means.
        every_item: Whether every item of the shop is a candidate.
    """
    means = {part: _mean_vectors(data, split, part, vectors) for part in ("train", part)}
    nearest = (means[part] @ means["train"].T).amax(1)
    queries = Counter[int]()
    for episode in episodes:
        queries[episode.scene] += len(episode.users)
    return {
        data.scenes[scene]: SceneFacts(
            candidates=len(data.texts) if every_item else len(data.items_of(scene)),
            queries=queries[scene],
            nearest=float(nearest[row]),
        )
        for row, scene in enumerate(split.scenes[part].tolist())
    }


def _mean_vectors(data: Dataset, split: Split, part: SplitName, vectors: torch.Tensor) -> torch.Tensor:
    means = [vectors[torch.tensor(data.items_of(int(scene)))].mean(0) for scene in split.scenes[part]]
    return torch.nn.functional.normalize(torch.stack(means), dim=1)


def count_queries(episodes: Sequence[Episode]) -> dict[str, int]:
    """Return how many queries have a relevant item that the support does not hold, and how many have no history."""
    new = 0
    for episode in episodes:
        known = torch.zeros(episode.candidates, dtype=torch.bool, device=episode.support.device)
        known[episode.support] = True
        new += int((episode.relevant & ~known).any(1).sum())
    cold = sum(int((episode.query_history.sum(1) == 0).sum()) for episode in episodes)
    return {"new_item_queries": new, "cold_user_queries": cold}
