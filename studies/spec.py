"""The study file: TOML in, one validated `StudySpec` out, or one clear error.

First step of the path: every other part receives the spec, none reads the file again. The spec also knows which of
its parts define the experiment (`identity`), so that a study resumed under a changed definition can be refused.
"""

from __future__ import annotations

import itertools
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    BaseModel,
    Field,
    PositiveInt,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails

from storage.artifacts import check_study_name
from storage.errors import InputError
from studies.domains import DEFAULT_SPACE, Domain, Range, Section, check_domain, nearest, values_of
from studies.hyperparameters import GRADIENT_LEARNERS, INNER_LOOP

Fraction = Annotated[float, Field(gt=0, lt=1)]


class DataSection(Section):
    """Where interactions and items come from, and which scenes are worth a study."""

    source: Literal["completejourney"]
    min_interactions: PositiveInt = 500
    min_users: PositiveInt = 100
    min_items: PositiveInt = 40
    max_scenes: PositiveInt | None = None


class ProtocolSection(Section):
    """How a recall is measured: docs/protocol.md says why."""

    shots: PositiveInt = 5
    k: PositiveInt = 10
    window_days: Annotated[int | float, Field(gt=0)] = 28
    history: PositiveInt = 32
    queries: PositiveInt = 64
    openings: Annotated[int, Field(ge=5)] = 5
    train_queries: PositiveInt = 24
    train_openings: PositiveInt = 12
    split: tuple[Fraction, Fraction, Fraction] = (0.6, 0.2, 0.2)
    timeline: tuple[Fraction, Fraction] = (0.6, 0.8)
    seed: Annotated[int, Field(ge=0)] = 0

    @field_validator("split", "timeline", mode="before")
    @classmethod
    def _list_to_tuple(cls, value: Any, info: ValidationInfo) -> Any:
        wanted = len(get_args(cls.model_fields[str(info.field_name)].annotation))
        if isinstance(value, list) and len(value) != wanted:
            raise ValueError(f"takes {wanted} fractions, got {value}")
        return tuple(value) if isinstance(value, list) else value

    @model_validator(mode="after")
    def _consistent(self) -> ProtocolSection:
        if abs(sum(self.split) - 1) > 1e-6:
            raise ValueError(f"split must add up to 1, got {list(self.split)} = {sum(self.split):g}")
        if self.timeline[0] >= self.timeline[1]:
            raise ValueError(f"timeline must increase, got {list(self.timeline)}")
        return self


class TeacherSection(Section):
    """The pretrained encoder the teachers are built on."""

    encoder: str = "minilm"
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = None
    max_tokens: Annotated[int, Field(ge=4, le=512)] = 48


class SearchSection(Section):
    """The search: its budget, its sampler, and the space; a parameter left out keeps its default domain."""

    trials: PositiveInt = 30
    timeout_minutes: Annotated[int | float, Field(gt=0)] | None = None
    workers: PositiveInt | None = None
    sampler: Literal["tpe", "random", "grid", "gp"] = "tpe"
    seed: Annotated[int, Field(ge=0)] = 0
    space: dict[str, Domain] = DEFAULT_SPACE

    @field_validator("space")
    @classmethod
    def _complete(cls, space: dict[str, Domain]) -> dict[str, Domain]:
        if not space:
            raise ValueError("the search space is empty; name at least one parameter, or leave [search.space] out")
        for name, domain in space.items():
            check_domain(name, domain)
        full = DEFAULT_SPACE | space
        learners = values_of(full["learner"])
        if not set(learners) & set(GRADIENT_LEARNERS):
            full = {name: domain for name, domain in full.items() if name not in INNER_LOOP}
        return full

    @model_validator(mode="after")
    def _grid_is_finite(self) -> SearchSection:
        if self.sampler == "grid":
            for name, domain in self.space.items():
                if isinstance(domain, Range) and not domain.whole:
                    raise ValueError(
                        f'sampler "grid" needs a list or whole-number range for every parameter; '
                        f"{name} is a real range: list its values, such as {name} = [{domain.low}, {domain.high}]"
                    )
        return self


class PrunerSection(Section):
    """When a hopeless trial stops: rungs are counts of meta-updates, the last one ends the trial."""

    kind: Literal["recall", "none"] = "recall"
    eta: Annotated[int, Field(ge=2)] = 3
    rungs: list[PositiveInt] = Field(default_factory=lambda: [30, 90, 270], min_length=1)
    keep: Annotated[float, Field(ge=0, le=1)] = 0.1

    @field_validator("rungs")
    @classmethod
    def _increasing(cls, rungs: list[int]) -> list[int]:
        if any(later <= earlier for earlier, later in itertools.pairwise(rungs)):
            raise ValueError(f"rungs must increase, got {rungs}")
        return rungs


class DistillSection(Section):
    """The distillation: how many winners teach, how large the student is, and its own small search."""

    teachers: PositiveInt = 2
    layers: PositiveInt = 3
    trials: PositiveInt = 3
    embed_steps: PositiveInt = 150
    rank_steps: PositiveInt = 120
    seed: Annotated[int, Field(ge=0)] = 0


class ExportSection(Section):
    """Where the best student goes; relative folders count from the working directory."""

    folder: str | None = None


class StudySpec(Section):
    """A validated study file."""

    name: str
    data: DataSection
    protocol: ProtocolSection = ProtocolSection()
    teacher: TeacherSection = TeacherSection()
    search: SearchSection = SearchSection()
    pruner: PrunerSection = PrunerSection()
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

    def identity(self) -> dict[str, Any]:
        """The parts that define the experiment; budgets, workers and folders may change between launches."""
        spec = self.model_dump(mode="json")
        for budget in ("trials", "timeout_minutes", "workers"):
            del spec["search"][budget]
        del spec["distill"]["trials"], spec["export"]
        return spec

    def export_folder(self) -> Path:
        """Where `hpo run` puts the student."""
        return Path(self.export.folder or f"exports/{self.name}")


def load_spec(path: Path) -> StudySpec:
    """Reads and validates a study file.

    Raises:
        InputError: the file is missing, is not TOML, or does not describe a study; the message names the place,
            what stands there, and what is accepted.
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
        return parse_spec(tomllib.loads(text), str(path))
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{path} is not valid TOML: {error}") from error


def parse_spec(raw: dict[str, Any], origin: str = "the study file") -> StudySpec:
    """Validates the parsed TOML (or a spec that `StudySpec.model_dump(mode="json")` wrote)."""
    try:
        return StudySpec.model_validate(raw)
    except ValidationError as error:
        problems = error.errors(include_url=False)
        # An unknown key is most often the cause of the rest (a misspelt required key is also "missing").
        first = next((p for p in problems if p["type"] == "extra_forbidden"), problems[0])
        raise InputError(f"{origin}: {_explain(first, problems)}") from error


def differences(stored: dict[str, Any], given: dict[str, Any], prefix: str = "") -> list[str]:
    """Readable lines of what differs between two identities, one per key: `search.space.inner_lr: 0.1 → 0.2`."""
    lines: list[str] = []
    for key in sorted(stored.keys() | given.keys()):
        old, new = stored.get(key, "absent"), given.get(key, "absent")
        if old == new:
            continue
        if isinstance(old, dict) and isinstance(new, dict) and "low" not in old:
            lines += differences(old, new, f"{prefix}{key}.")
        else:
            lines.append(f"{prefix}{key}: {_show(old)} → {_show(new)}")
    return lines


# What pydantic's kinds of mismatch mean in a study file's own words.
_WANTED = {
    "model_type": "a table",
    "dict_type": "a table",
    "list_type": "a list",
    "tuple_type": "a list",
    "float_type": "a number",
    "finite_number": "a finite number",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "string_type": "a string",
    "bool_type": "true or false",
}


def _explain(problem: ErrorDetails, problems: list[ErrorDetails]) -> str:
    place, kind = _place(problem), problem["type"]
    if kind == "extra_forbidden":
        key = str(problem["loc"][-1])
        table = ".".join(str(part) for part in problem["loc"][:-1] if part in _KEYS)
        where = f"in [{table}]" if table else "at the top level"
        return f"unknown key {key!r} {where}{nearest(key, _keys_of(table))}"
    if kind == "missing":
        return f"{place} is required; see studies/quickstart.toml for an example"
    if kind == "value_error":
        return f"{place}: {problem['ctx']['error']}" if place else str(problem["ctx"]["error"])
    if kind in _WANTED:
        # A union gives one problem per member: together they say what is accepted.
        wanted = {_WANTED[p["type"]] for p in problems if _place(p) == place and p["type"] in _WANTED}
        wanted -= {"a whole number"} if wanted & {"a number", "a finite number"} else set()
        return f"{place}: takes {' or '.join(sorted(wanted))}, got {_show(problem['input'])}"
    message = problem["msg"].removeprefix("Input ").replace(" after validation", "")
    return f"{place}: {message[0].lower()}{message[1:]}, got {_show(problem['input'])}"


def _place(problem: ErrorDetails) -> str:
    # Names of union members are pydantic's own, not the user's: leave them out.
    return ".".join(str(part) for part in problem["loc"] if part in _KEYS or isinstance(part, int))


def _keys_of(table: str) -> list[str]:
    model: type[BaseModel] = StudySpec
    for part in table.split(".") if table else []:
        annotation = model.model_fields[part].annotation if part in model.model_fields else None
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return list(Range.model_fields)
        model = annotation
    return list(model.model_fields)


def _show(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k} = {v}" for k, v in value.items()) + "}"
    return repr(value)


def _all_keys() -> set[str]:
    keys = set(DEFAULT_SPACE) | set(StudySpec.model_fields) | set(Range.model_fields)
    for field in StudySpec.model_fields.values():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            keys |= set(field.annotation.model_fields)
    return keys


_KEYS = _all_keys()
