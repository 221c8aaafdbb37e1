"""Checkpoints: tensors as safetensors beside a small JSON file with their digest.

A run's folder holds one checkpoint per saved step, `step-000030/`, and keeps the newest two, so that one is left to
resume from if the writer is killed or the newest is damaged. With a store (`storage.files.store`) the folder is a
working copy: each checkpoint is uploaded, and newer ones in the store are downloaded.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from storage.errors import CorruptArtifact
from storage.files import store
from storage.files.atomic import atomic_folder, discard, sha256, sweep
from storage.files.outputs import named_failures

# Torch is imported where tensors are read or written: the dashboard serves checkpoints as files, without it.
if TYPE_CHECKING:
    import torch

    Checkpoint = tuple[dict[str, torch.Tensor], dict[str, Any]]

log = logging.getLogger(__name__)

FORMAT = 1
KEPT = 2
WEIGHTS = "weights.safetensors"
MANIFEST = "checkpoint.json"
_STEP = re.compile(r"step-(\d{6,})")


class _OtherVersion(CorruptArtifact):
    """The checkpoint is not damaged, but of a format that another version of the program reads."""


def save(folder: Path, step: int, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, Any]) -> None:
    """Add a checkpoint to a run's folder and to the store, then remove all but the newest two.

    Args:
        folder: Folder of the run.
        step: Step of its training; a checkpoint of the same step is replaced.
        tensors: Tensors by name, of any device and layout. Tensors that share memory are stored once each.
        metadata: Any JSON values by name.

    Raises:
        ArtifactsUnavailable: It cannot be written or uploaded; earlier checkpoints are kept.
    """
    path = _at(folder, step)
    with named_failures(path):
        _write(path, tensors, metadata)
        for old in _outdated(_steps_here(folder)):
            discard(_at(folder, old))
    _upload(folder, step)


def newest_valid(folder: Path) -> Checkpoint | None:
    """Return the checkpoint to resume a run from, on the CPU; None when there is none.

    Only for the one process that owns the folder. Damaged checkpoints are removed with a warning, as training writes
    them again, and so are the drafts of a killed writer.

    Raises:
        CorruptArtifact: The newest is of another version.
        ArtifactsUnavailable: The store does not answer.
    """
    sweep(folder)
    here, there = _steps_here(folder), _steps_there(folder)
    for step in sorted(here | there, reverse=True):
        try:
            metadata = _check_or_fetch(folder, step, here, there)
        except _OtherVersion:
            raise
        except CorruptArtifact as error:
            log.warning("%s: removed; the run resumes from an older checkpoint", error)
            discard(_at(folder, step))
            continue
        if step not in there:  # its upload was interrupted
            _upload(folder, step)
        return _weights(_at(folder, step)), metadata
    return None


def last(folder: Path) -> Checkpoint:
    """Return the last checkpoint of a run, on the CPU; an earlier one must not stand in for it, as results rest on it.

    Raises:
        CorruptArtifact: There is none, or it is damaged; the message says what to do.
        ArtifactsUnavailable: The store does not answer.
    """
    path, metadata = _last(folder)
    return _weights(path), metadata


def last_folder(folder: Path) -> Path:
    """Return the local folder of a run's last checkpoint, for `load`; it was checked, and downloaded if necessary.

    Raises:
        CorruptArtifact: There is none, or it is damaged; the message says what to do.
        ArtifactsUnavailable: The store does not answer.
    """
    return _last(folder)[0]


def _last(folder: Path) -> tuple[Path, dict[str, Any]]:
    here, there = _steps_here(folder), _steps_there(folder)
    remedy = "restore it from a copy, or delete the study and launch it again"
    if not here | there:
        raise CorruptArtifact(f"{folder} holds no checkpoint: {remedy}")
    step = max(here | there)
    try:
        return _at(folder, step), _check_or_fetch(folder, step, here, there)
    except CorruptArtifact as error:
        raise CorruptArtifact(f"{error}, and an earlier checkpoint must not stand in for it: {remedy}") from error


def load(path: Path) -> Checkpoint:
    """Return the tensors, on the CPU, and the metadata of one checkpoint, after checking their digests.

    Raises:
        CorruptArtifact: A file is missing, truncated, altered or of another version.
    """
    metadata = _checked(path)
    return _weights(path), metadata


def _weights(path: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(path / WEIGHTS)


def _write(path: Path, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, Any]) -> None:
    import torch
    from safetensors.torch import save_file

    # A copy per tensor: safetensors refuses shared memory and strides.
    copies = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()
    }
    described = json.loads(json.dumps(dict(metadata)))
    with atomic_folder(path, replace=True) as draft:
        save_file(copies, draft / WEIGHTS)
        manifest = {
            "format": FORMAT,
            "sha256": sha256(draft / WEIGHTS),
            "metadata_sha256": _digest(described),
            "metadata": described,
        }
        (draft / MANIFEST).write_text(json.dumps(manifest, indent=2))


def _check_or_fetch(folder: Path, step: int, here: set[int], there: set[int]) -> dict[str, Any]:
    """Return the metadata of a step after checking it; download the step from the store if it is not intact here."""
    path = _at(folder, step)
    if step in here:
        try:
            return _checked(path)
        except CorruptArtifact as error:
            if isinstance(error, _OtherVersion) or step not in there:
                raise
            log.warning("%s: downloading it again from the store", error)
    try:
        with atomic_folder(path, replace=True) as draft:
            store.pull(path, draft)
            return _checked(draft)
    except _OtherVersion:
        raise
    except CorruptArtifact as error:
        raise CorruptArtifact(f"what the store has of {path} is incomplete or was altered") from error


def _upload(folder: Path, step: int) -> None:
    store.push(_at(folder, step), last=MANIFEST)
    for old in _outdated(_steps_there(folder)):
        store.remove(_at(folder, old))


def _at(folder: Path, step: int) -> Path:
    return folder / f"step-{step:06d}"


def _steps_here(folder: Path) -> set[int]:
    return _steps(path.name for path in folder.iterdir()) if folder.is_dir() else set()


def _steps_there(folder: Path) -> set[int]:
    return _steps(store.uploaded(folder, last=MANIFEST))


def _steps(names: Iterable[str]) -> set[int]:
    return {int(found[1]) for found in map(_STEP.fullmatch, names) if found}


def _outdated(steps: set[int]) -> list[int]:
    return sorted(steps)[:-KEPT]


def _checked(path: Path) -> dict[str, Any]:
    """Return the metadata of a checkpoint after comparing its files with their digests."""
    manifest = _manifest(path / MANIFEST)
    weights = path / WEIGHTS
    try:
        digest = sha256(weights)
    except OSError as error:
        raise CorruptArtifact(f"{weights} cannot be read ({error.strerror})") from error
    if digest != manifest.get("sha256"):
        raise CorruptArtifact(
            f"{weights} was truncated or altered (its SHA-256 is {digest}, {MANIFEST} says {manifest.get('sha256')})"
        )
    metadata: dict[str, Any] = manifest["metadata"]
    return metadata


def _manifest(path: Path) -> dict[str, Any]:
    try:
        manifest = json.loads(path.read_bytes())
    except OSError as error:
        raise CorruptArtifact(f"{path} cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise CorruptArtifact(f"{path} is not JSON ({error})") from error
    version = manifest.get("format") if isinstance(manifest, dict) else None
    if version != FORMAT:
        kind = _OtherVersion if isinstance(version, int) else CorruptArtifact
        raise kind(
            f"{path} has format {version!r}, this version reads {FORMAT}: use the version of scenetune that wrote it"
        )
    if manifest.get("metadata_sha256") != _digest(manifest.get("metadata")):
        raise CorruptArtifact(f"{path} holds metadata that was altered")
    checked: dict[str, Any] = manifest
    return checked


def _digest(metadata: object) -> str:
    return hashlib.sha256(json.dumps(metadata, sort_keys=True).encode()).hexdigest()
