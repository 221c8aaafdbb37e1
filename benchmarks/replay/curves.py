"""Learning curves to replay: recorded ones, and two synthetic families that no constant was tuned to."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

Floats = npt.NDArray[np.float64]

SCENES, UPDATES = 31, (10, 30, 90, 270)
# Of the texts of classification's 100 validation episodes, counted in tokens, those that one in so many episodes holds.
TEXTS = {3: 0.58, 5: 0.41}


@dataclass(frozen=True)
class Curves:
    """N configurations at R rungs on S scenes.

    Attributes:
        name: of the family.
        updates: (R,) meta-updates at each rung.
        recalls: (N, R, S) validation recall; NaN from the rung where training diverged.
        training: (N, R) seconds of training up to each rung.
        evaluation: (N, R) seconds of the evaluation at each rung.
        redrawn: (N, S) final recall on other draws of the validation scenes.
        test: (N,) final recall on the test scenes.
        parameters: (N,) configurations; empty where a sampler has nothing to learn from them.
        spec: the study file, where there are parameters.
        earlier: rows that an older study has searched, where there is one; they come again only if asked for.
    """

    name: str
    updates: tuple[int, ...]
    recalls: Floats
    training: Floats
    evaluation: Floats
    redrawn: Floats
    test: Floats
    parameters: list[dict[str, Any]]
    spec: dict[str, Any]
    earlier: tuple[int, ...] = ()

    @property
    def means(self) -> Floats:
        """(N, R) macro-averages."""
        means: Floats = self.recalls.mean(2)
        return means

    @property
    def final(self) -> Floats:
        """(N,) validation recall at the last rung; -1 where training diverged."""
        return np.nan_to_num(self.means[:, -1], nan=-1.0)

    @property
    def classifies(self) -> bool:
        """Whether the configurations classify; else they rank."""
        return self.spec.get("task") == "classification"

    @property
    def ratio(self) -> int:
        """How many times the updates of the rung before a rung has.

        Raises:
            ValueError: the rungs are no geometric series, which successive halving wants.
        """
        found = self.updates[1] // self.updates[0]
        if any(later != found * earlier for earlier, later in pairwise(self.updates)):
            raise ValueError(f"rungs at {self.updates}: each needs to be as many times the one before")
        return found

    def shipped(self) -> Curves:
        """What searches are judged at: ranking's without the first rung, earlier than the first of the shipped study.

        Classification's curves have every rung: early ranks say more there, and evaluations cost more than training.
        """
        if self.classifies:
            return self
        arrays = {name: getattr(self, name)[:, 1:] for name in ("recalls", "training", "evaluation")}
        return replace(self, updates=self.updates[1:], **arrays)

    def on_fewer_scenes(self, every: int) -> Curves:
        """With one in `every` scenes evaluated, and paid for, at the first rung.

        Episodes of classification share texts: where layers of the encoder train, it reads more of them than that.
        """
        recalls, evaluation = self.recalls.copy(), self.evaluation.copy()
        recalls[:, 0] = recalls[:, 0, ::every].mean(1, keepdims=True)
        trained = np.array([values.get("trainable_layers", 0) > 0 for values in self.parameters], bool)
        share = np.full(len(evaluation), 1 / every)
        if self.classifies:
            share[trained] = TEXTS[every]
        evaluation[:, 0] *= share
        return replace(self, recalls=recalls, evaluation=evaluation)

    def some(self, rows: npt.NDArray[np.int64]) -> Curves:
        """The configurations of these rows."""
        arrays = {name: getattr(self, name)[rows] for name in ("recalls", "training", "evaluation", "redrawn", "test")}
        return replace(self, parameters=[self.parameters[row] for row in rows if self.parameters], **arrays)


def after_an_older_study(whole: Curves, seed: int, older: int = 40) -> Curves:
    """A table of which an older study has searched the first configurations, in an order of the seed."""
    rows = np.random.default_rng(10_000 + seed).permutation(len(whole.test))[:older]
    return replace(whole, name="after an older study", earlier=tuple(map(int, rows)))


def recorded(path: Path) -> Curves:
    """What `benchmarks/record_curves.py` wrote."""
    table = pq.read_table(path)
    about = json.loads(table.schema.metadata[b"scenetune"])
    rows = table.to_pylist()
    numbers = sorted({row["configuration"] for row in rows})
    updates = tuple(about["spec"]["pruner"]["rungs"])
    shape = (len(numbers), len(updates))
    scenes = about["scenes"]
    recalls = np.full((*shape, len(scenes["validation"])), np.nan)
    training, evaluation = np.zeros(shape), np.zeros(shape)
    redrawn = np.full((len(numbers), len(scenes["redrawn"])), np.nan)
    test = np.full(len(numbers), np.nan)
    parameters: list[dict[str, Any]] = [{} for _ in numbers]
    for row in rows:
        number = numbers.index(row["configuration"])
        parameters[number] = json.loads(row["parameters"])
        if row["part"] == "validation":
            recalls[number, row["rung"]] = row["scene_recalls"]
            # Later rungs of a diverged configuration cost nothing more.
            training[number, row["rung"] :] = row["training_seconds"]
            evaluation[number, row["rung"]] = row["evaluation_seconds"]
        elif row["part"] == "redrawn":
            redrawn[number] = row["scene_recalls"]
        else:
            test[number] = np.mean(row["scene_recalls"])
    evaluation = np.diff(evaluation, axis=1, prepend=0.0).clip(min=0.0)
    return Curves(
        "recorded", updates, recalls, training, evaluation, redrawn, np.nan_to_num(test, nan=-1.0), parameters,
        about["spec"],
    )  # fmt: skip


def noisy(seed: int, count: int = 600) -> Curves:
    """All learn at one pace, but a rung's recall is mostly noise: early ranks say little."""
    rng = np.random.default_rng(seed)
    ceiling = 0.3 + 0.2 * rng.beta(2, 3, count)
    return _family("noise", ceiling, np.full(count, 40.0), 0.04, rng)


def late_bloomers(seed: int, count: int = 600) -> Curves:
    """The higher the ceiling, the slower the way there, on the whole: early leaders are often not the best."""
    rng = np.random.default_rng(seed)
    quality = rng.beta(2, 3, count)
    pace = 15.0 * np.exp(2.0 * (0.6 * quality + 0.4 * rng.random(count)))
    return _family("late bloomers", 0.3 + 0.2 * quality, pace, 0.01, rng)


def _family(name: str, ceiling: Floats, pace: Floats, noise: float, rng: np.random.Generator) -> Curves:
    """Recall saturates as ceiling · (1 - 0.5 exp(-updates / pace)); scenes differ, and every rung has noise of its own.

    Args:
        name: of the family.
        ceiling: (N,).
        pace: (N,) updates.
        noise: standard deviation of a configuration's mean over scenes at a rung, from one rung to the next.
        rng: draws the rest.
    """
    count, updates = len(ceiling), np.array(UPDATES)
    mean = ceiling[:, None] * (1 - 0.5 * np.exp(-updates / pace[:, None]))
    scene = rng.normal(0, 0.1, SCENES)
    errors = rng.normal(0, noise * np.sqrt(SCENES), (count, len(updates) + 2, SCENES))
    recalls = (mean[:, :, None] + scene + errors[:, :-2]).clip(0, 1)
    price = np.exp(rng.normal(0, 0.5, count))[:, None]
    redrawn = (mean[:, -1:] + scene + errors[:, -2]).clip(0, 1)
    test = mean[:, -1]
    return Curves(
        name, UPDATES, recalls, 0.1 * updates * price, 2.0 * price.repeat(len(updates), 1), redrawn, test, [], {}
    )
