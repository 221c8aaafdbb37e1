"""Resumable state on disk: tensors as safetensors beside a small JSON file that vouches for them."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from storage.atomic import atomic_folder, sha256
from storage.errors import CorruptArtifact

FORMAT = 1
WEIGHTS = "weights.safetensors"
MANIFEST = "checkpoint.json"
_REMEDY = "delete the folder and let the run that made it start again, or restore it from a copy"


def save(folder: Path, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, Any]) -> None:
    """Write a checkpoint atomically, in the place of an existing one.

    Args:
        folder: Becomes the checkpoint; holds `weights.safetensors` and `checkpoint.json`.
        tensors: By name, of any device and layout. Tensors that share memory are stored once each.
        metadata: Anything JSON holds.
    """
    # A copy per tensor: safetensors refuses shared memory and strides.
    copies = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()
    }
    described = json.loads(json.dumps(dict(metadata)))
    with atomic_folder(folder, replace=True) as draft:
        save_file(copies, draft / WEIGHTS)
        manifest = {
            "format": FORMAT,
            "sha256": sha256(draft / WEIGHTS),
            "metadata_sha256": _digest(described),
            "metadata": described,
        }
        (draft / MANIFEST).write_text(json.dumps(manifest, indent=2))


def load(folder: Path, device: str = "cpu") -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Return the tensors, on `device`, and the metadata of a checkpoint, after checking their digests.

    Raises:
        CorruptArtifact: A file is missing, truncated, altered or of another version.
    """
    manifest = _manifest(folder / MANIFEST)
    weights = folder / WEIGHTS
    try:
        digest = sha256(weights)
    except OSError as error:
        raise CorruptArtifact(f"{weights} cannot be read ({error.strerror}): {_REMEDY}") from error
    if digest != manifest.get("sha256"):
        raise CorruptArtifact(
            f"{weights} has SHA-256 {digest}, {MANIFEST} says {manifest.get('sha256')}: "
            f"it was truncated or altered; {_REMEDY}"
        )
    return load_file(weights, device=device), manifest["metadata"]


def _manifest(path: Path) -> dict[str, Any]:
    try:
        manifest = json.loads(path.read_bytes())
    except OSError as error:
        raise CorruptArtifact(f"{path} cannot be read ({error.strerror}): {_REMEDY}") from error
    except ValueError as error:
        raise CorruptArtifact(f"{path} is not JSON ({error}): {_REMEDY}") from error
    version = manifest.get("format") if isinstance(manifest, dict) else None
    if version != FORMAT:
        raise CorruptArtifact(
            f"{path} has format {version!r}, this version reads {FORMAT}: "
            f"use the version of scenetune that wrote it, or {_REMEDY}"
        )
    if manifest.get("metadata_sha256") != _digest(manifest.get("metadata")):
        raise CorruptArtifact(f"{path} holds metadata that was altered: {_REMEDY}")
    checked: dict[str, Any] = manifest
    return checked


def _digest(metadata: object) -> str:
    return hashlib.sha256(json.dumps(metadata, sort_keys=True).encode()).hexdigest()
