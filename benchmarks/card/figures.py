"""The file of figures: written again after each, so that a run that is cut off leaves what it has measured."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from storage.files.atomic import atomic_write


class Figures:
    """Rows of {measure, ours, peer, peer_value, ratio, unit} and what belongs to them, printed as they come.

    Args:
        path: The file; nothing is written where it is left out.
        device: That the run is on.
    """

    def __init__(self, path: Path | None, device: torch.device) -> None:
        self.rows: list[dict[str, Any]] = []
        self._path, self._hardware = path, hardware(device)
        print(self._hardware, flush=True)

    def add(
        self,
        measure: str,
        unit: str,
        ours: float,
        peer: str,
        peer_value: float,
        *,
        less: bool = False,
        **more: Any,
    ) -> None:
        """Add a figure beside its peer's.

        Args:
            measure: What was measured.
            unit: Of both values.
            ours: Our value.
            peer: What it is compared with, in the same process.
            peer_value: Its value.
            less: Whether smaller is better; the ratio is above 1 where ours is better.
            more: Further columns, such as the share of the roofline.
        """
        ratio = (peer_value / ours if less else ours / peer_value) if ours and peer_value else None
        row = {"measure": measure, "ours": ours, "peer": peer, "peer_value": peer_value, "ratio": ratio, "unit": unit}
        self.rows.append(row | more | {"hardware": self._hardware})
        beside = "" if ratio is None else f", {peer} {peer_value:.4g}: {ratio:.2f}x"
        extra = "".join(f"; {name} {_spell(value)}" for name, value in more.items() if name != "operators")
        print(f"{measure}: {ours:.4g} {unit}{beside}{extra}", flush=True)
        self._write()

    @contextmanager
    def attempt(self, measure: str) -> Iterator[None]:
        """Record a failure of the block in place of its figure, so that the other measurements run."""
        try:
            yield
        except (RuntimeError, ImportError, NotImplementedError) as error:
            words = f"{type(error).__name__}: {error}"
            self.rows.append({"measure": measure, "error": words, "hardware": self._hardware})
            print(f"{measure}: FAILED: {words.splitlines()[0]}", flush=True)
            self._write()

    def _write(self) -> None:
        if self._path is not None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            atomic_write(self._path, json.dumps(self.rows, indent=1).encode())


def hardware(device: torch.device) -> str:
    """Name the device and the versions that figures were measured with."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or "CPU"
    threads = "" if device.type == "cuda" else f", {torch.get_num_threads()} threads"
    return f"{name}{threads}, torch {torch.__version__}, Python {platform.python_version()}"


def _spell(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_spell(one)}" for name, one in value.items())
    return f"{value:.3g}" if isinstance(value, float) else str(value)
