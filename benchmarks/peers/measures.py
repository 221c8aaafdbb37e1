"""How systems are compared: their gradients, their tasks per second, and the memory of a step."""

from __future__ import annotations

import ctypes
import gc
import re
import resource
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from statistics import median
from unittest import mock

import torch
from torch import Tensor, nn

from peers.cases import System
from studies.episodes.episode import Episode
from studies.model.device import device, full_precision
from studies.training.outer_loop import Trainer

FLOATS = ("support_history", "query_history", "overlap", "fields", "terms")
# Largest relative difference of gradients that is rounding.
TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-2}
# A gradient far below the largest is nothing but rounding (attention's key bias): it counts as if it were this large.
FLOOR = 1e-3


def gradient_errors(systems: Mapping[str, System], episodes: Sequence[Episode], dtype: torch.dtype) -> dict[str, float]:
    """Largest relative difference between each peer's outer gradient and ours, parameter by parameter.

    Raises:
        SystemExit: it is more than rounding: then the peer computes something else, and speed means nothing.
    """
    # A peer's module has the model's weights and one of its own.
    modules = [getattr(system, "network", system.model) for system in systems.values()]
    with full_precision(), in_dtype(modules, dtype):
        typed = [replace(e, **{name: getattr(e, name).to(dtype) for name in FLOATS}) for e in episodes]
        found = {name: _gradients(system, typed) for name, system in systems.items()}
    ours = found.pop("ours")
    floor = FLOOR * max(float(gradient.abs().max()) for gradient in ours.values())
    errors = {}
    for peer, theirs in found.items():
        differences = {
            name: float((theirs[name] - gradient).abs().max()) / max(float(gradient.abs().max()), floor)
            if name in theirs
            else float("inf")
            for name, gradient in ours.items()
        }
        worst = max(differences, key=lambda name: differences[name])
        errors[peer] = differences[worst]
        if not errors[peer] < TOLERANCE[dtype]:
            sys.exit(f"{peer}'s gradient of {worst} differs from ours by {errors[peer]:.1e}: nothing is measured")
    return errors


def _gradients(system: System, episodes: Sequence[Episode]) -> dict[str, Tensor]:
    system.model.zero_grad()
    system.meta_step(episodes)
    return {name: p.grad.clone() for name, p in system.model.named_parameters() if p.grad is not None}


@contextmanager
def in_dtype(modules: Sequence[nn.Module], dtype: torch.dtype) -> Iterator[None]:
    """The modules in `dtype`; in float64, code that asks for fp32 by `.float()` gets float64 too."""
    asked = mock.patch.object(Tensor, "float", Tensor.double) if dtype == torch.float64 else nullcontext()
    try:
        with asked:
            for module in modules:
                module.to(dtype)
            yield
    finally:
        for module in modules:
            module.to(torch.float32)


def rates(systems: Mapping[str, System], batches: Sequence[Sequence[Episode]], rounds: int) -> dict[str, float]:
    """Median tasks/s of each; all take their turn on one meta-batch before the next."""
    found: dict[str, list[float]] = {name: [] for name in systems}
    for number in range(rounds + 1):
        for name, system in systems.items():
            found[name].append(len(batches[number]) / seconds(system, batches[number]))
    # The first round warms up.
    return {name: median(values[1:]) for name, values in found.items()}


def seconds(system: System, episodes: Sequence[Episode]) -> float:
    """One meta-step."""
    system.model.zero_grad()
    synchronize()
    started = time.perf_counter()
    system.meta_step(episodes)
    synchronize()
    return time.perf_counter() - started


def train_in_turns(systems: Mapping[str, System], episodes: Sequence[Episode], updates: int) -> dict[str, float]:
    """Trains all on the same meta-batches, an update each in turn; tasks/s of each."""
    trainers = {name: Trainer(system, episodes, updates, seed=0) for name, system in systems.items()}
    spent = dict.fromkeys(systems, 0.0)
    for system in systems.values():
        seconds(system, episodes[:1])  # warms up
    for step in range(1, updates + 1):
        for name, trainer in trainers.items():
            synchronize()
            started = time.perf_counter()
            trainer.train_to(step)
            synchronize()
            spent[name] += time.perf_counter() - started
    return {
        name: updates * min(system.hyperparameters.meta_batch_size, len(episodes)) / spent[name]
        for name, system in systems.items()
    }


def synchronize() -> None:
    """Waits for the device."""
    if device().type == "cuda":
        torch.cuda.synchronize()


def peak_mib(system: System, episodes: Sequence[Episode]) -> float:
    """Most memory that a meta-step holds at once, above what the process held before: of the GPU, or resident."""
    gc.collect()
    if device().type == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        system.meta_step(episodes)
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    before = _forget_peak()
    system.meta_step(episodes)
    return _peak() - before


def _forget_peak() -> float:
    """Makes the peak of this process what it holds now, where Linux allows that; returns it in MiB."""
    if sys.platform == "linux":
        # Freed memory that malloc keeps would hide what the step takes.
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
    return _peak()


def _peak() -> float:
    if sys.platform == "linux":
        found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
        assert found is not None
        return int(found[1]) / 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
