"""The manifest of an export: where it comes from, its figures, and the digest of every file.

`distill/export/writer.py` writes it, `distill/serving/loader.py` refuses a folder whose files differ from it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from storage.errors import InputError
from storage.files.atomic import sha256
from studies.config.spec import Format, Precision

if TYPE_CHECKING:
    from distill.student import Student

FORMAT = 4
MANIFEST = "manifest.json"
HEAD = "head.safetensors"
LEXICON = "lexicon.safetensors"
# Of a student narrower than its teacher; where sentence-transformers looks for a Dense module.
PROJECTION = "2_Dense/model.safetensors"
# Entries that the caller of the export gives: where the student comes from and how good it is.
ORIGIN = ("study", "spec", "data_fingerprint", "encoder", "metrics")
# Files without which an export cannot be served: every manifest must list them.
SERVED = ("config.json", "model.safetensors", "tokenizer.json", HEAD, LEXICON)
# Packages whose versions affect what an export holds.
_PACKAGES = ("scenetune", "torch", "transformers")
_ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
_REMEDY = "export the study again, or restore the folder from a copy"


def describe(
    student: Student, origin: Mapping[str, Any], formats: Sequence[Format] = ("hf",), precision: Precision = "fp32"
) -> dict[str, Any]:
    """Return the manifest without its files: origin and figures as given, and facts of the student.

    Args:
        student: What is exported.
        origin: The entries named in `ORIGIN`, and others, as JSON values.
        formats: What the export holds; the checks add what they measure of each.
        precision: Of the stored weights.

    Raises:
        ValueError: An entry of `ORIGIN` is missing.
    """
    from distill.student import parameters

    if missing := [name for name in ORIGIN if name not in origin]:
        raise ValueError(f"the manifest lacks {', '.join(missing)}; accepted: {', '.join(ORIGIN)} and more")
    return {
        "format": FORMAT,
        **origin,
        "max_tokens": student.max_tokens,
        "layers": int(student.tower.model.config.num_hidden_layers),
        "width": int(student.tower.model.config.hidden_size),
        "dimensions": int(student.head.project.weight.shape[1]),
        "learner": student.learner.hyperparameters.to_dict(),
        "distillation": student.hyperparameters.to_dict(),
        "vocabulary": {"kept": int(student.tower.model.config.vocab_size), "of": origin["encoder"].get("vocabulary")},
        "parameters": {"encoder": parameters(student.tower), "head": parameters(student.head)},
        "precision": precision,
        "formats": {name: {} for name in formats},
        "versions": {name: _version(name) for name in (*_PACKAGES, *(_ONNX_PACKAGES if "onnx" in formats else ()))},
    }


def seal(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Write the manifest last, over an older one, with the total size and the SHA-256 of every other file."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / MANIFEST)
    for path in files:
        path.chmod(0o644)  # safetensors makes its files private; an export is made to be passed on
    sealed = {
        **manifest,
        "bytes": sum(path.stat().st_size for path in files),
        "files": {path.relative_to(folder).as_posix(): sha256(path) for path in files},
    }
    (folder / MANIFEST).write_text(json.dumps(sealed, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def verify(folder: Path) -> dict[str, Any]:
    """Return the manifest of an export after checking that every file is as it was written.

    Raises:
        InputError: The folder is not an export, or of another version; or a file is missing or altered.
    """
    manifest = read(folder)
    files: dict[str, str] = manifest["files"]
    for name in dict.fromkeys((*SERVED, *files)):
        path = folder / name
        if name not in files or not path.is_file():
            raise InputError(f"the export {folder} has no {name}: {_REMEDY}")
        if (digest := sha256(path)) != files[name]:
            raise InputError(
                f"{path} has SHA-256 {digest}, {MANIFEST} says {files[name]}: it was altered or truncated; {_REMEDY}"
            )
    return manifest


def is_export(folder: Path) -> bool:
    """Return whether `folder` holds an export, intact or not, of this version or another."""
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(manifest, dict) and {"format", "study", "learner", "files"} <= manifest.keys()


def read(folder: Path) -> dict[str, Any]:
    """Return the manifest of an export without checking the files.

    Raises:
        InputError: The folder is not an export, or one of another version.
    """
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_bytes())
    except OSError as error:
        raise InputError(
            f"{folder} is not an export: {MANIFEST} cannot be read ({error.strerror}); name a folder that "
            "hpo run or hpo export wrote"
        ) from error
    except ValueError as error:
        raise InputError(f"{path} is not JSON ({error}): {_REMEDY}") from error
    found = manifest.get("format") if isinstance(manifest, dict) else None
    if found != FORMAT or not isinstance(manifest.get("files"), dict):
        raise InputError(
            f"{path} has format {found!r}, this version reads {FORMAT}: use the version of scenetune that wrote it, "
            "or export the study again"
        )
    checked: dict[str, Any] = manifest
    return checked


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed (run from its source)"
