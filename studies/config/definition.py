"""All of a study file but `[data]`: what training, distillation and serving need of a study, whatever its task.

Nothing here loads a source of data: a machine that trains needs no polars. `studies.tasks` names each task's own.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import Field, PositiveInt, ValidationInfo, field_validator, model_validator

from storage.errors import InputError
from storage.home import check_study_name
from studies.config.distill_section import DistillSection
from studies.config.protocol_section import ProtocolSection, increasing
from studies.config.search_domains import Section, values_of
from studies.config.search_section import SearchSection
from studies.learners.registry import LEARNERS

# The formats of an export, and the precision of its weights.
Format = Literal["hf", "onnx", "onnx-int8"]
Precision = Literal["fp32", "fp16", "bf16"]


def _plain() -> list[Format]:
    return ["hf"]


class TeacherSection(Section):
    """The pretrained encoder of the teachers.

    `encoder` is "minilm", a hub id, or a folder; relative folders start at the study file's own.
    `attention` is the kernel of the layers that train: "auto" takes the faster one that has the derivatives the learner
    needs. `compile` runs these layers through `torch.compile` where the inner loop does not move them.
    """

    encoder: str = "minilm"
    attention: Literal["auto", "eager", "sdpa"] = "auto"
    compile: bool = False
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = None
    max_tokens: Annotated[int, Field(ge=4, le=512)] = 48

    @field_validator("encoder")
    @classmethod
    def _from_the_study_file(cls, encoder: str, info: ValidationInfo) -> str:
        folder = (info.context or {}).get("encoder_folder")
        if folder is None or encoder == "minilm":
            return encoder
        path = folder / Path(encoder).expanduser()
        # A hub id has a slash too.
        return os.path.normpath(path) if encoder.startswith((".", "/", "~")) or path.is_dir() else encoder


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


class StudyDefinition(Section):
    """A study without its data; a task's own sets the types of `task`, `protocol` and `search`."""

    name: str
    task: str
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
    def _attention_fits(self) -> StudyDefinition:
        layers = max(values_of(self.search.space["trainable_layers"]))
        learners = values_of(self.search.space["learner"])
        eager = [name for name in learners if LEARNERS[name].needs_eager_attention]
        if self.teacher.attention == "sdpa" and layers > 0 and eager:
            raise ValueError(
                f'teacher.attention = "sdpa" has no second derivative, which {eager[0]} needs where layers of the '
                f'encoder train; set attention = "auto", take {", ".join(eager)} out of search.space.learner, or set '
                "trainable_layers = 0"
            )
        return self

    @property
    def metric(self) -> str:
        """Return the name of the recall that trials are compared by, such as "recall@10"."""
        return self.protocol.metric

    def finalist_count(self) -> int:
        """Return the number of trials to re-evaluate; the teachers are chosen among them."""
        return max(self.finalists.count, self.distill.teachers)

    def export_folder(self) -> Path:
        """Return the folder that `hpo run` exports the student to."""
        return Path(self.export.folder or f"exports/{self.name}")
