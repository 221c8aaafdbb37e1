"""Scoring and measuring every query of many scenes: ours against a plain loop over queries, on the same machine.

    python benchmarks/evaluation.py [--quick] [--json FILE]

100 scenes of 64 queries and 500 candidates, from cached embeddings. Ours ranks and measures an episode at a time with
torch; the peer asks the same system for the scores, then ranks and measures one query after the other with NumPy. A
run in TREC's format is written too, against formatting it line by line. Runs alternate, medians are reported; the
figures and files are compared first.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from storage.files.atomic import atomic_write
from studies.config.hyperparameters import Hyperparameters
from studies.episodes.catalogue_terms import TERMS
from studies.episodes.episode import Episode
from studies.evaluation import trec
from studies.evaluation.evaluate import Adapted, ItemVectors, System, evaluate
from studies.evaluation.metrics import METRICS, random_order, rank
from studies.learners.tasks.scene_tasks import scene_learner
from studies.model.recommender import Head, Recommender
from studies.model.towers import FrozenTower

SCENES, QUERIES, CANDIDATES, SHOTS, WIDTH, K = 100, 64, 500, 5, 384, 10
NAMES = [f"scene {scene:03d}" for scene in range(SCENES)]


class MatrixProduct:
    """Scores a user and an item by the product of their embeddings: as cheap as scoring gets."""

    def __init__(self, items: Tensor, users: Tensor) -> None:
        self._items, self._users = items, users

    def scores(self, episode: Episode) -> Tensor:
        """(Q, C) products."""
        return self._users[episode.users] @ self._items[episode.items].T


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def draw_episode(scene: int) -> Episode:
    """Random takes and histories; a fifth of the users has no history, a twentieth of the candidates is excluded."""
    relevant = torch.rand(QUERIES, CANDIDATES) < 0.005
    relevant[torch.arange(QUERIES), torch.randint(CANDIDATES, (QUERIES,))] = True
    seen = (torch.rand(QUERIES, CANDIDATES) < 0.04) & (torch.rand(QUERIES, 1) < 0.8)
    return Episode(
        scene=scene,
        opened=0,
        items=torch.arange(scene * CANDIDATES, (scene + 1) * CANDIDATES),
        candidates=CANDIDATES,
        held=torch.arange(CANDIDATES),
        support=torch.randint(CANDIDATES, (SHOTS,)),
        support_history=(torch.rand(SHOTS, CANDIDATES) < 0.04).float(),
        query_history=seen.float(),
        relevant=relevant,
        excluded=(torch.rand(QUERIES, CANDIDATES) < 0.05) & ~relevant,
        elsewhere=torch.zeros(CANDIDATES, 0),
        elsewhere_total=torch.zeros(0),
        support_past=torch.zeros(SHOTS, 0, dtype=torch.uint8),
        query_past=torch.zeros(QUERIES, 0, dtype=torch.uint8),
        support_past_total=torch.ones(SHOTS),
        query_past_total=torch.ones(QUERIES),
        overlap=torch.zeros(SHOTS, CANDIDATES),
        fields=torch.zeros(SHOTS, CANDIDATES),
        terms=torch.zeros(CANDIDATES, len(TERMS)),
        users=torch.arange(scene * QUERIES, (scene + 1) * QUERIES),
        rows=torch.arange(SHOTS),
    )


def plain_query(
    scores: Any, draws: Any, relevant: Any, excluded: Any, support: set[int], cold: bool
) -> tuple[dict[str, float], Any]:
    """One query's figures and list, as one would write them down."""
    ranked = np.lexsort((-draws, -scores))
    ranked = ranked[~excluded[ranked]]
    top = ranked[:K]
    wanted = set(np.flatnonzero(relevant).tolist())
    hits = [item in wanted for item in top.tolist()]
    new = wanted - support
    recall = sum(hits) / len(wanted)
    figures = {
        "recall": recall,
        "ndcg": sum(hit / np.log2(place + 2) for place, hit in enumerate(hits))
        / sum(1 / np.log2(place + 2) for place in range(min(K, len(wanted)))),
        "mrr": 1 / (1 + np.flatnonzero(relevant[ranked])[0]),
        "hit_rate": float(any(hits)),
        "precision": sum(hits) / K,
        "accuracy": float(hits[0]),
        "new_item_recall": len(new.intersection(top.tolist())) / len(new) if new else np.nan,
        "cold_user_recall": recall if cold else np.nan,
    }
    return figures, top


def plain_evaluate(system: System, episodes: Sequence[Episode]) -> dict[str, float]:
    """Every metric, averaged over queries, then scenes, each of which opens once."""
    scenes: defaultdict[str, list[float]] = defaultdict(list)
    for episode in episodes:
        scores, relevant, excluded = system.scores(episode).numpy(), episode.relevant.numpy(), episode.excluded.numpy()
        draws = random_order(episode).numpy()
        cold, support = episode.query_history.numpy().sum(1) == 0, set(episode.support.tolist())
        takers = relevant.sum(0)
        queries: defaultdict[str, list[float]] = defaultdict(list)
        shown: list[int] = []
        for query in range(len(scores)):
            figures, top = plain_query(
                scores[query], draws[query], relevant[query], excluded[query], support, cold[query]
            )
            shown += top.tolist()
            for metric, value in figures.items():
                queries[metric].append(value)
        for metric, values in queries.items():
            scenes[metric].append(float(np.nanmean(values)))
        scenes["coverage"].append(len(set(shown)) / episode.candidates)
        scenes["popularity"].append(float(takers[shown].mean() / takers.mean()))
    return {metric: float(np.nanmean(values)) for metric, values in scenes.items()}


def plain_run(path: Path, rankings: Sequence[tuple[Episode, Tensor]]) -> None:
    """A TREC run, line by line."""
    with path.open("w") as file:
        for episode, order in rankings:
            ids, items = trec.queries(episode, NAMES), trec.docnos(episode)
            for query, row, out in zip(ids, order.tolist(), episode.excluded.tolist(), strict=True):
                kept = (item for item in row if not out[item])
                for place, item in enumerate(kept, start=1):
                    file.write(f"{query} Q0 {items[item]} {place} {episode.candidates - place + 1} ours\n")


def write_run(folder: Path, data: Any, rankings: Sequence[tuple[Episode, Tensor]]) -> None:
    with trec.dump(folder, data, [episode for episode, _ in rankings]) as writer:
        run = writer.run("ours")
        for episode, order in rankings:
            run(episode, order)


def compare(
    measure: str, work: int, unit: str, ours: Callable[[], object], peer: tuple[str, Callable[[], object]], rounds: int
) -> dict[str, object]:
    """Times both by turns; prints seconds, returns rates."""
    name, plain = peer
    times = [(seconds(ours), seconds(plain)) for _ in range(rounds)]
    mine, theirs = (statistics.median(column) for column in zip(*times, strict=True))
    print(f"{measure}: ours {mine:.3f} s, {name} {theirs:.3f} s: {theirs / mine:.1f}x")
    return {
        "measure": measure,
        "ours": work / mine,
        "peer": name,
        "peer_value": work / theirs,
        "ratio": theirs / mine,
        "unit": unit,
    }


def systems(episodes: Sequence[Episode]) -> dict[str, System]:
    """What scores, cheapest first; the embeddings are there already."""
    items = torch.nn.functional.normalize(torch.randn(SCENES * CANDIDATES, WIDTH), dim=1)
    learner = scene_learner(Recommender(FrozenTower(items), Head(WIDTH)), Hyperparameters(learner="protonet"))
    return {
        "matrix product": MatrixProduct(items, torch.randn(SCENES * QUERIES, WIDTH)),
        "protonet, adapting": Adapted(
            learner, ItemVectors(learner.model.tower, episodes, torch.ones(len(items), dtype=torch.int64))
        ),
    }


def measure_systems(episodes: Sequence[Episode], rounds: int) -> list[dict[str, object]]:
    rows = []
    for name, system in systems(episodes).items():
        found, expected = evaluate(system, episodes, NAMES, K), plain_evaluate(system, episodes)
        for metric in METRICS:
            np.testing.assert_allclose(found.mean(metric), expected[metric], rtol=1e-9)
        scoring = statistics.median(seconds(lambda s=system: [s.scores(e) for e in episodes]) for _ in range(rounds))
        print(f"{name}: all {len(METRICS)} figures equal the peer's; the scores alone take {scoring:.3f} s")
        ours = partial(evaluate, system, episodes, NAMES, K)
        peer = partial(plain_evaluate, system, episodes)
        measure = f"score and measure ({name})"
        rows.append(compare(measure, SCENES * QUERIES, "queries/s", ours, ("a loop over queries", peer), rounds))
    return rows


def measure_run(episodes: Sequence[Episode], rounds: int) -> dict[str, object]:
    rankings = [(e, rank(torch.randn(e.relevant.shape), e)) for e in episodes]
    lines = sum(int((~e.excluded).sum()) for e in episodes)
    data = SimpleNamespace(scenes=NAMES, texts=[""] * SCENES * CANDIDATES, item_ids=[""] * SCENES * CANDIDATES)
    with tempfile.TemporaryDirectory() as home:
        write_run(Path(home, "trec"), data, rankings)
        plain_run(Path(home, "plain"), rankings)
        assert Path(home, "trec/ours.run").read_bytes() == Path(home, "plain").read_bytes()
        folders = (Path(home, f"trec{number}") for number in range(rounds))
        peer = partial(plain_run, Path(home, "plain"), rankings)
        return compare(
            "write a TREC run",
            lines,
            "lines/s",
            lambda: write_run(next(folders), data, rankings),
            ("a line at a time", peer),
            rounds,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="half a minute instead of one and a half")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    arguments = parser.parse_args()
    rounds = 3 if arguments.quick else 11
    torch.manual_seed(0)
    episodes = [draw_episode(scene) for scene in range(SCENES)]
    rows = [*measure_systems(episodes, rounds), measure_run(episodes, rounds)]
    if arguments.json:
        atomic_write(arguments.json, json.dumps(rows, indent=2).encode())


if __name__ == "__main__":
    main()
