"""Processes that build and use a cache of activations; a module of its own, so that they start quickly."""

import os
import signal
from collections.abc import Collection
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

from studies.config.definition import TeacherSection
from studies.model.activation_cache import ActivationCache
from studies.model.encoder import Encoder, load, tokenize
from tests.synthetic import BRANDS, COLOURS, SCENES, SIZES

# Different lengths, so that padding, masks and batches by length have something to get wrong.
TEXTS = [
    " ".join([COLOURS[i % 6], *BRANDS[: i % 5], SIZES[i % 3] * (i % 2), *SCENES[i % 7].split()[: 1 + i % 2]])
    for i in range(24)
]
SEVERAL_BATCHES = TEXTS * 100


def cache(folder: Path, encoder: Encoder, texts: list[str] = TEXTS) -> ActivationCache:
    return ActivationCache(folder, encoder, tokenize(encoder.tokenizer, texts, 32))


def computes(built: ActivationCache, layers: Collection[int]) -> bool:
    """Builds; whether anything had to be computed."""
    calls: list[int] = []
    built.build(layers, lambda done, total: calls.append(done))
    return bool(calls)


def build_in_process(model: Path, folder: Path, gate: Any, results: Any) -> None:
    """Builds the cache as a worker would; reports whether it was this process that computed."""
    built = cache(folder, load(TeacherSection(encoder=str(model))))
    gate.wait(timeout=120)
    computed = computes(built, {0, 2})
    results.put((computed, built.pooled().tolist(), built.hidden(2).values.float().tolist()))


def use_in_process(model: Path, folder: Path, built: Event, ask: Event, results: Any) -> None:
    """A study at work: builds, and reads only when asked to, as trials do."""
    used = cache(folder, load(TeacherSection(encoder=str(model))))
    used.build({0})
    built.set()
    ask.wait(timeout=120)
    results.put(used.pooled().tolist())


def die_in_process(model: Path, folder: Path) -> None:
    def die(done: int, total: int) -> None:
        assert done < total
        os.kill(os.getpid(), signal.SIGKILL)

    cache(folder, load(TeacherSection(encoder=str(model))), SEVERAL_BATCHES).build({0, 1}, die)
