"""Known classes: our search and the Trainer's, of equal cost, on the same rows."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from classifiers import searched, trainer_peer
from storage.files.atomic import atomic_write
from storage.home import cache_folder
from studies.classification.episode import LabelledEpisode
from studies.classification.known.batches import evaluation_batch
from studies.classification.known.evaluate import evaluate_known
from studies.classification.known.problem import KnownClassesProblem
from studies.classification.scoring.metrics import predict
from studies.config.spec import parse_spec
from studies.episodes.split import SPLIT_NAMES
from studies.evaluation.intervals import bootstrap
from studies.evaluation.metrics import compare
from studies.training.prepare import prepare

BASELINES = ("frozen encoder centroids", "frozen encoder logistic regression", "TF-IDF logistic regression")


def study(quick: bool) -> dict[str, Any]:
    """Categories of Complete Journey's products; test rows are of other product types than training's.

    Rates have the range that the Trainer searches; the last rung is about two epochs of batches of 32.
    """
    classes, rungs = (6, [5, 10]) if quick else (12, [20, 60])
    return {
        "name": "known",
        "task": "classification",
        "data": {"source": "completejourney", "max_classes": classes},
        "protocol": {"classes": "known", "split_by": "hash", "min_rows": 60},
        "search": {
            "space": {
                "trainable_layers": 6,
                "encoder_lr": {"low": 1e-5, "high": 1e-3, "log": True},
                "outer_lr": {"low": 1e-4, "high": 1e-2, "log": True},
                "meta_batch_size": [1, 2, 4],
                "temperature": {"low": 0.03, "high": 0.3, "log": True},
                "dropout": [0.0, 0.1],
                "label_smoothing": [0.0, 0.1],
                "weight_decay": 0.01,
                "head": "scalars",
            }
        },
        "pruner": {"rungs": rungs},
    }


class Given:
    """A system whose logits are known."""

    def __init__(self, logits: Tensor) -> None:
        self._logits = logits

    def logits(self, episode: LabelledEpisode) -> Tensor:
        """Return them."""
        return self._logits.to(episode.items.device)


def run(folder: Path, budget: float, *, quick: bool, peers: bool) -> list[dict[str, object]]:
    """Search with both, score the best of each on the test rows, and return the rows of the comparison.

    Args:
        folder: Of the searches; what is there already is not done again.
        budget: CPU seconds for each search.
        quick: Fewer classes, less training.
        peers: Whether the Trainer takes part.
    """
    problem = prepare(parse_spec(study(quick)), cache_folder())
    assert isinstance(problem, KnownClassesProblem)
    best = searched.search(problem, folder / "ours", {}, None, budget)
    logits = {"ours": _ours(problem, best)}
    (batch,) = problem.test
    logits |= {name: problem.baselines("test")[name].logits(batch) for name in BASELINES}
    costs = {"ours": best.cost}
    print(f"ours: {best.recall:.4f} on validation, {best.trials} trials in {best.cost:.0f} s; {best.params}")
    if peers:
        kept = folder / "trainer.json"
        if not kept.exists():
            rows = {name: evaluation_batch(problem.data, problem.split, name) for name in SPLIT_NAMES}
            found = trainer_peer.search(problem, rows, budget)
            atomic_write(kept, json.dumps(asdict(found) | {"logits": found.logits.tolist()}).encode())
        stored = json.loads(kept.read_text())
        logits["Trainer"], costs["Trainer"] = torch.tensor(stored["logits"]), stored["cost"]
        print(
            f"Trainer: {stored['recall']:.4f} on validation, {stored['trials']} trials in {stored['cost']:.0f} s; "
            f"{stored['params']}"
        )
    return compared(problem, batch, logits, costs)


def _ours(problem: KnownClassesProblem, best: searched.Best) -> Tensor:
    found: list[Tensor] = []
    learner = best.teacher(problem).learner
    problem.evaluate(learner, problem.test, dump=lambda episode, logits: found.append(logits.cpu()))
    return found[0]


def compared(
    problem: KnownClassesProblem, batch: LabelledEpisode, logits: dict[str, Tensor], costs: dict[str, float]
) -> list[dict[str, object]]:
    """Ours against each other system: macro recall, paired over classes or their parts, and accuracy, over rows."""
    figures = {name: evaluate_known(Given(found), batch, problem.data.labels) for name, found in logits.items()}
    right = {name: (predict(found, batch) == batch.query_labels).double().numpy() for name, found in logits.items()}
    rows: list[dict[str, object]] = []
    for peer in [name for name in logits if name != "ours"]:
        recalls = figures["ours"].mean(), figures[peer].mean()
        accuracies = right["ours"].mean(), right[peer].mean()
        gaps = compare(figures["ours"], figures[peer]), bootstrap(right["ours"] - right[peer])
        for unit, (ours, theirs), gap in zip(("macro recall", "accuracy"), (recalls, accuracies), gaps, strict=True):
            rows.append(
                {
                    "measure": f"known classes, test {unit}",
                    "ours": float(ours),
                    "peer": peer,
                    "peer_value": float(theirs),
                    "ratio": float(ours / theirs),
                    "unit": unit,
                    "difference": [gap.mean, gap.low, gap.high],
                }
            )
    if "Trainer" in costs:
        ratio = costs["ours"] / costs["Trainer"]
        rows.append(
            {
                "measure": "known classes, cost of the search",
                "ours": costs["ours"],
                "peer": "Trainer",
                "peer_value": costs["Trainer"],
                "ratio": ratio,
                "unit": "CPU s",
            }
        )
    return rows
