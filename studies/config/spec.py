"""The study file: TOML in, a validated `StudySpec` or one clear error out.

First step of the path: all later steps receive the spec, none reads the file again. `StudySpec.identity` returns the
keys that define the experiment, so that a study cannot be resumed under a changed definition.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    Field,
    PositiveInt,
    ValidationError,
    field_validator,
    model_validator,
)

from storage.errors import InputError
from storage.home import check_study_name
from studies.config.distill_section import DistillSection
from studies.config.protocol_section import ProtocolSection, increasing
from studies.config.search_domains import Section, values_of
from studies.config.search_section import SearchSection
from studies.config.validation_errors import explain, show
from studies.data.sources import DataSection
from studies.learners.registry import LEARNERS

# The formats of an export, and the precision of its weights.
Format = Literal["hf", "onnx", "onnx-int8"]
Precision = Literal["fp32", "fp16", "bf16"]

# Keys of [search] that may differ between launches of one study.
_CHANGEABLE = (
    "trials", "cost_minutes", "timeout_minutes", "target_recall", "patience", "retries", "start", "warm_start",
    "warm_start_trials", "workers", "worker_cpus", "worker_gpus", "episodes_at_once",
)  # fmt: skip


def _plain() -> list[Format]:
    return ["hf"]


class TeacherSection(Section):
    """The pretrained encoder of the teachers.

    `attention` is the kernel of the layers that train: "auto" takes the faster one that has the derivatives the learner
    needs. `compile` runs these layers through `torch.compile` where the inner loop does not move them.
    """

    encoder: str = "minilm"
    attention: Literal["auto", "eager", "sdpa"] = "auto"
    compile: bool = False
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = None
    max_tokens: Annotated[int, Field(ge=4, le=512)] = 48


class PrunerSection(Section):
    """The pruner and its rungs; the last rung ends a trial.

    `resource` is "updates" (meta-updates: the same search on any machine) or "seconds" (of training, by the measured
    seconds of the trial's own updates: learners compete at equal cost).
    """

    kind: Literal["recall", "none"] = "recall"
    resource: Literal["updates", "seconds"] = "updates"
    eta: Annotated[int, Field(ge=2)] = 3
    rungs: list[PositiveInt] = Field(default_factory=lambda: [30, 90, 270], min_length=1)
    keep: Annotated[float, Field(ge=0, le=1)] = 0.05

    @field_validator("rungs")
    @classmethod
    def _rungs_increase(cls, rungs: list[int]) -> list[int]:
        return increasing("rungs", rungs)


class FinalistsSection(Section):
    """The best trials, re-evaluated on other draws of the validation scenes before the winners are chosen."""

    count: PositiveInt = 4
    draws: PositiveInt = 3


class ExportSection(Section):
    """The folder and formats of the best student; relative folders start at the working directory.

    `formats` always contains "hf", and "onnx" where it contains "onnx-int8". `precision` is that of model.safetensors.
    """

    folder: str | None = None
    formats: list[Format] = Field(default_factory=_plain)
    precision: Precision = "fp32"

    @field_validator("formats")
    @classmethod
    def _implied(cls, formats: list[Format]) -> list[Format]:
        wanted = {"hf", *formats, *(["onnx"] if "onnx-int8" in formats else [])}
        return [name for name in get_args(Format) if name in wanted]


class StudySpec(Section):
    """A validated study file."""

    name: str
    data: DataSection
    protocol: ProtocolSection = ProtocolSection()
    teacher: TeacherSection = TeacherSection()
    search: SearchSection = SearchSection()
    pruner: PrunerSection = PrunerSection()
    finalists: FinalistsSection = FinalistsSection()
    distill: DistillSection = DistillSection()
    export: ExportSection = ExportSection()

    @field_validator("name")
    @classmethod
    def _name(cls, name: str) -> str:
        try:
            check_study_name(name)
        except InputError as error:
            raise ValueError(str(error)) from error
        return name

    @model_validator(mode="after")
    def _meaningful(self) -> StudySpec:
        data, protocol = self.data, self.protocol
        if protocol.candidates == "scene":
            if data.scene_is_user:
                raise ValueError(
                    "each user is a scene, whose own items as candidates would give the answers away; "
                    'set protocol.candidates = "all"'
                )
            if data.min_items <= protocol.k:
                raise ValueError(
                    f"data.min_items = {data.min_items} keeps scenes in which every item is among the first "
                    f"protocol.k = {protocol.k}, so that recall@{protocol.k} is always 1; raise min_items above "
                    f"{protocol.k} or lower k"
                )
        layers = max(values_of(self.search.space["trainable_layers"]))
        learners = values_of(self.search.space["learner"])
        eager = [name for name in learners if LEARNERS[name].needs_eager_attention]
        if self.teacher.attention == "sdpa" and layers > 0 and eager:
            raise ValueError(
                f'teacher.attention = "sdpa" has no second derivative, which {eager[0]} needs where layers of the '
                f'encoder train; set attention = "auto", take {", ".join(eager)} out of search.space.learner, or set '
                "trainable_layers = 0"
            )
        if data.scene_is_user and data.min_users > 1:
            raise ValueError(
                f"each user is a scene, which has one user, not data.min_users = {data.min_users}; set min_users = 1"
            )
        return self

    def identity(self) -> dict[str, Any]:
        """Return the keys that define the experiment: all but budgets, workers and folders, which may change."""
        spec = self.model_dump(mode="json")
        for path in self.data.paths:
            del spec["data"][path]
        for changeable in _CHANGEABLE:
            del spec["search"][changeable]
        del spec["distill"]["trials"], spec["export"]
        return spec

    def finalist_count(self) -> int:
        """Return the number of trials to re-evaluate; the teachers are chosen among them."""
        return max(self.finalists.count, self.distill.teachers)

    def export_folder(self) -> Path:
        """Return the folder that `hpo run` exports the student to."""
        return Path(self.export.folder or f"exports/{self.name}")


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


def parse_spec(raw: dict[str, Any], origin: str = "the study file", folder: Path | None = None) -> StudySpec:
    """Validate parsed TOML, or a spec that `StudySpec.model_dump(mode="json")` wrote.

    Args:
        raw: The parsed file.
        origin: Name of the file in errors.
        folder: Folder that relative paths of data files start at; the working directory by default.

    Raises:
        InputError: A key or value is not valid; the message names the place, the value, and what is accepted.
    """
    try:
        return StudySpec.model_validate(raw, context={"folder": (folder or Path()).absolute()})
    except ValidationError as error:
        raise InputError(f"{origin}: {explain(error, StudySpec)}") from error


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
