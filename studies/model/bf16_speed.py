"""Measures whether this CPU is faster in bf16, and stores the answer so that all workers of a machine choose alike.

`studies/model/device.py` asks. A list of processor flags would have to name every vendor's units; a product of
matrices of an encoder's size takes a tenth of a second and finds those units by what they do.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import time
from contextlib import suppress
from functools import cache
from pathlib import Path

import torch
from filelock import FileLock
from torch import Tensor
from torch.nn import functional

from storage.errors import ArtifactsUnavailable, InputError
from storage.files.atomic import atomic_write

# Processors with units for bf16 multiply 2 to 8 times as fast, others at most as fast as in fp32: nothing measured lies
# near this factor, so a busy machine does not change the answer (docs/decisions.md).
FACTOR = 1.5
_ROUNDS = 5
# Where the answer is stored, once `share_choice` has been called.
_folder: list[Path] = []


def share_choice(folder: Path) -> None:
    """Store the answer in this folder from now on, or take it from there: for caches that processes share."""
    _folder[:] = [folder]


def bf16_is_faster() -> bool:
    """Return whether to multiply in bf16: as `HPO_BF16` says, else as measured on this kind of machine.

    Raises:
        InputError: `HPO_BF16` is neither 0 nor 1.
    """
    given = os.environ.get("HPO_BF16", "")
    if given not in ("", "0", "1"):
        raise InputError(f"HPO_BF16 = {given!r}: set it to 1 for bf16 or 0 for fp32, or leave it out to measure")
    if given:
        return given == "1"
    return (_stored(_folder[0]) if _folder else _measured()) >= FACTOR


def _stored(folder: Path) -> float:
    """Return the speedup that the first process of this kind of machine measured."""
    kind = f"{getattr(torch.cpu, 'get_capabilities', platform.machine)()} torch {torch.__version__}"
    path = folder / f"bf16-{hashlib.sha256(kind.encode()).hexdigest()[:16]}.json"
    if (speedup := _read(path)) is not None:
        return speedup
    with suppress(OSError, ArtifactsUnavailable):  # a folder that takes no files is for processes that only read
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / "bf16.lock"):
            if (speedup := _read(path)) is not None:  # another process was first
                return speedup
            atomic_write(path, json.dumps({"speedup": _measured()}).encode())
    return _measured()


def _read(path: Path) -> float | None:
    try:
        return float(json.loads(path.read_bytes())["speedup"])
    except (OSError, ValueError, KeyError, TypeError):  # missing or damaged
        return None


@cache
def _measured() -> float:
    """Return how many times as fast as in fp32 a linear layer of MiniLM is in bf16, by one thread's processor time."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        # No random numbers: a study's own must not depend on what was measured before.
        texts, weight = torch.full((512, 384), 0.5), torch.full((1536, 384), 0.5)
        seconds: dict[bool, list[float]] = {False: [], True: []}
        for _ in range(_ROUNDS + 1):
            for bf16, found in seconds.items():
                found.append(_seconds(texts, weight, bf16=bf16))
            if seconds[True][0] > 10 * seconds[False][0]:  # emulated, too slow to wait for more
                return 0.0
        return min(seconds[False][1:]) / min(seconds[True][1:])  # the first warms up
    finally:
        torch.set_num_threads(threads)


@torch.inference_mode()
def _seconds(texts: Tensor, weight: Tensor, *, bf16: bool) -> float:
    started = time.thread_time()
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        functional.linear(texts, weight)
    return time.thread_time() - started
