"""Settings of a device: the speed of what each governs, with every alternative beside the one that is shipped.

`studies.model.device.DeviceSettings` says what they are; the fastest is what to ship there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch

from card.figures import Figures
from card.roofline import median_seconds
from card.served import exported
from distill.hyperparameters import StudentHyperparameters
from distill.inference import StudentRecommender
from distill.objective import Distillation, Teacher
from distill.trainer import Distiller
from studies.config.hyperparameters import Hyperparameters
from studies.model.activation_cache import ActivationCache
from studies.model.device import device_settings, override_settings, uses_bf16
from studies.training.encoder_setup import trainable_choices
from studies.training.problem import Problem

ALTERNATIVES: dict[str, tuple[Any, ...]] = {
    "attention": ("eager", "sdpa"),
    "bf16": (True, False),
    "encode_tokens": (2**11, 2**13, 2**15, 2**17),
    "train_elements": (2**18, 2**22, 2**24, 2**26),
    "vmap_elements": (1, 2**16, 2**19, 2**21, 2**24),
    "distil_tokens": (2**11, 2**13, 2**15),
    "serve_tokens": (2**11, 2**13, 2**15, 2**17),
}
# An alternative is worth a change of what is shipped from here on.
WORTH = 1.1
EPISODES, QUICK_EPISODES, TEXTS, STEPS = 8, 2, 256, 4


def measure(problem: Problem, figures: Figures, device: torch.device, folder: Path, *, quick: bool) -> None:
    """Add the speed with each alternative, and print which to ship.

    Args:
        problem: Of a pack.
        figures: Where they go.
        device: Where it runs.
        folder: For caches and an export.
        quick: A rehearsal: one alternative of each.
    """
    shipped = asdict(device_settings()) | {"bf16": uses_bf16()}
    prepare, advice = _Work(problem, folder, QUICK_EPISODES if quick else EPISODES), []
    for name, values in ALTERNATIVES.items():
        found: dict[Any, float] = {}
        for value in [shipped[name], *[value for value in values if value != shipped[name]][: 1 if quick else None]]:
            label = f"setting {name} = {value}"
            with figures.attempt(label), override_settings(**{name: value}):
                unit, work, amount = prepare.of(name)
                found[value] = amount / median_seconds(work, device, 1 if quick else 5)
                figures.add(label, unit, found[value], f"as shipped: {shipped[name]}", found.get(shipped[name], 0.0))
        advice += _advice(name, shipped[name], found)
    print("\n".join(["settings to ship:", *advice]), flush=True)


def _advice(name: str, shipped: Any, found: dict[Any, float]) -> Iterator[str]:
    if found and (base := found.get(shipped)):
        best = max(found, key=lambda value: found[value])
        better = found[best] > WORTH * base
        yield f"  {name}: {f'{best}, {found[best] / base:.2f}x of {shipped}' if better else f'{shipped}, as it is'}"


class _Work:
    """What each setting governs, prepared under the settings in force: unit, work, and how much of it there is."""

    def __init__(self, problem: Problem, folder: Path, episodes: int) -> None:
        self._problem, self._folder, self._caches, self._episodes = problem, folder, 0, episodes
        self._layers = max(trainable_choices(problem.spec.search))
        self._export: Path | None = None
        self._distillation: Distillation | None = None

    def of(self, name: str) -> tuple[str, Callable[[], object], int]:
        """Return (unit, work, amount) of a setting."""
        if name == "encode_tokens":
            return "texts/s", self._encode, len(self._problem.tokens)
        if name == "serve_tokens":
            return self._serve()
        if name == "distil_tokens":
            return self._distil()
        layers = 0 if name == "vmap_elements" else self._layers
        return self._meta_step("anil" if layers == 0 else "protonet", layers)

    def _encode(self) -> None:
        self._caches += 1
        ActivationCache(self._folder / f"cache-{self._caches}", self._problem.encoder, self._problem.tokens).build([0])

    def _meta_step(self, name: str, layers: int) -> tuple[str, Callable[[], object], int]:
        inner = {"inner_lr": 0.05, "inner_steps": 3} if name == "anil" else {}
        learner = self._problem.learner(Hyperparameters(name, trainable_layers=layers, **inner))
        episodes = self._problem.train[: self._episodes]
        return "tasks/s", partial(learner.meta_step, episodes), len(episodes)

    def _distil(self) -> tuple[str, Callable[[], object], int]:
        if self._distillation is None:
            teacher = Teacher(0, 0.0, self._problem.learner(Hyperparameters("protonet")))
            self._distillation = Distillation(self._problem, [teacher])
        student = self._distillation.start(StudentHyperparameters(layers=1, batch_size=TEXTS))
        section = self._problem.spec.distill
        distiller = Distiller(student, self._distillation.targets, self._problem.train, section)
        return "text steps/s", lambda: [distiller.text_loss().backward() for _ in range(STEPS)], STEPS

    def _serve(self) -> tuple[str, Callable[[], object], int]:
        self._export = self._export or exported(self._problem, self._folder / "served", checked=False)
        student, texts = StudentRecommender.load(self._export, precision="auto"), self._problem.data.texts
        return "texts/s", partial(student.embed, texts), len(texts)
