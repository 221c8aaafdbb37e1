"""The study file: TOML in, a validated `StudySpec` or one clear error out.

First step of the path: all later steps receive the spec, none reads the file again. `StudySpec.identity` returns the
keys that define the experiment, so that a study cannot be resumed under a changed definition.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from storage.errors import InputError
from studies.config.definition import StudyDefinition
from studies.config.search_domains import show
from studies.config.validation_errors import explain
from studies.data.source import Source
from studies.tasks import task_of

# Keys of [search] that may differ between launches of one study.
_CHANGEABLE = (
    "trials", "cost_minutes", "timeout_minutes", "target_recall", "patience", "retries", "start", "warm_start",
    "warm_start_trials", "workers", "worker_cpus", "worker_gpus", "episodes_at_once",
)  # fmt: skip


class StudySpec(StudyDefinition):
    """A validated study file."""

    data: Source

    def identity(self) -> dict[str, Any]:
        """Return the keys that define the experiment: all but budgets, workers and folders, which may change.

        What a folder of data or of an encoder holds is told by digests, wherever it is (`hpo.registry.check_inputs`).
        """
        spec = self.model_dump(mode="json")
        for path in self.data.paths:
            del spec["data"][path]
        for changeable in _CHANGEABLE:
            del spec["search"][changeable]
        if self.teacher.encoder.startswith((".", "/", "~")):
            spec["teacher"]["encoder"] = "a folder"
        del spec["distill"]["trials"], spec["distill"]["extensions"], spec["export"]
        return spec


def load_spec(path: Path) -> StudySpec:
    """Read and validate a study file.

    Raises:
        InputError: The file is missing, is not TOML, or does not describe a study; the message names the place, the
            value, and what is accepted.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(
            f"cannot read the study file {path}: {error.strerror}; give the path of a TOML file, "
            "such as studies/quickstart.toml"
        ) from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text ({error.reason}); a study file is TOML") from error
    try:
        return parse_spec(tomllib.loads(text), str(path), path.parent)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{path} is not valid TOML: {error}") from error
    except RecursionError as error:
        raise InputError(f"{path} nests lists or tables too deeply; a study file has three levels") from error


def parse_spec(raw: dict[str, Any], origin: str = "the study file", folder: Path | None = None) -> StudySpec:
    """Validate parsed TOML, or a spec that `StudySpec.model_dump(mode="json")` wrote.

    Args:
        raw: The parsed file.
        origin: Name of the file in errors.
        folder: Folder of the study file, which relative paths of data files and of the encoder start at. Without one,
            data files start at the working directory, and the encoder is taken as it is.

    Raises:
        InputError: A key or value is not valid; the message names the place, the value, and what is accepted.
    """
    try:
        kind = task_of(raw)
    except ValueError as error:
        raise InputError(f"{origin}: {error}") from error
    model: type[StudySpec] = kind.part(kind.spec)  # type: ignore[assignment]
    try:
        context = {"folder": (folder or Path()).absolute(), "encoder_folder": folder and folder.absolute()}
        return model.model_validate(raw, context=context)
    except ValidationError as error:
        raise InputError(f"{origin}: {explain(error, model)}") from error


def differences(stored: dict[str, Any], given: dict[str, Any], prefix: str = "") -> list[str]:
    """Return the differences of two identities, one line per key: `search.space.inner_lr: 0.1 → 0.2`."""
    lines: list[str] = []
    for key in sorted(stored.keys() | given.keys()):
        old, new = stored.get(key, "absent"), given.get(key, "absent")
        if old == new:
            continue
        if isinstance(old, dict) and isinstance(new, dict) and "low" not in old:
            lines += differences(old, new, f"{prefix}{key}.")
        else:
            lines.append(f"{prefix}{key}: {show(old)} → {show(new)}")
    return lines
