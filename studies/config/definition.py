"""All of a study file but `[data]`: what training, distillation and serving need of a study, whatever its task.

Nothing here loads a source of data: a machine that trains needs no polars. `studies.tasks` names each task's own.
"""

from __future__ import annotations

import math
import os
from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Literal, Self, get_args

from pydantic import Field, PositiveInt, ValidationInfo, field_validator, model_validator

from storage.errors import InputError
from storage.home import check_study_name
from studies.adaptation.section import AdaptSection
from studies.config.distill_section import DistillSection
from studies.config.protocol_section import ProtocolSection, increasing
from studies.config.search_domains import Section, values_of
from studies.config.search_section import SearchSection
from studies.learners.registry import LEARNERS

# The formats of an export, and the precision of its weights.
Format = Literal["hf", "onnx", "onnx-int8", "triton", "pt2"]
Precision = Literal["fp32", "fp16", "bf16"]
# How the states of a text's tokens become its vector, as sentence-transformers names it.
Pooling = Literal["mean", "cls", "max"]


def _plain() -> list[Format]:
    return ["hf"]


def _is_path(encoder: str) -> bool:
    """Return whether an encoder's name cannot be a hub id, which is a name or OWNER/NAME."""
    return encoder.startswith((".", "/", "~")) or encoder.endswith("/") or encoder.count("/") > 1


class TeacherSection(Section):
    """The pretrained encoder of the teachers.

    Attributes:
        encoder: "minilm" (bundled; English), a hub id (needs a network), or a folder; relative folders start at the
            study file's own.
        attention: Kernel of the layers that train. "auto" takes the faster one that has the derivatives the learner
            needs: eager on CPUs and for maml, otherwise SDPA. Layers of MPNet and DeBERTa have eager alone.
        compile: Whether these layers run through `torch.compile` where the inner loop does not move them; compiling
            takes half a minute.
        sha256: SHA-256 that the encoder's model.safetensors must have; that of "minilm" is known.
        max_tokens: Most tokens of a text, those of its prefix counted; longer texts are cut.
        pooling: How the states of a text's tokens become its vector: their mean, the first one ("cls") or the maximum.
            Without it, what the encoder's sentence-transformers files say, else "mean".
        prefix: What stands before every text, such as "query: ". Without it, the default prompt of the encoder's
            sentence-transformers files, else nothing.
        adapt: The shop's own training of the encoder, before the search; none without this table.
    """

    encoder: str = "minilm"
    attention: Literal["auto", "eager", "sdpa"] = "auto"
    compile: bool = False
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = None
    max_tokens: Annotated[int, Field(ge=4, le=512)] = 48
    pooling: Pooling | None = None
    prefix: Annotated[str, Field(max_length=1000)] | None = None
    adapt: AdaptSection | None = None

    @field_validator("encoder")
    @classmethod
    def _from_the_study_file(cls, encoder: str, info: ValidationInfo) -> str:
        folder = (info.context or {}).get("encoder_folder")
        if folder is None or encoder == "minilm":
            return encoder
        path = folder / Path(encoder).expanduser()
        return os.path.normpath(path) if _is_path(encoder) or path.is_dir() else encoder

    def folder(self) -> Path | None:
        """Return the encoder's folder; None for "minilm" and for a hub id.

        Raises:
            InputError: There is no such folder, or a hub id is also a folder of the working directory, which
                transformers would read instead.
        """
        path = Path(self.encoder).expanduser()
        # Folders of a study file are absolute by now.
        if not _is_path(self.encoder):
            if self.encoder != "minilm" and path.is_dir():
                raise InputError(
                    f"teacher.encoder = {self.encoder!r} is no folder beside the study file, where relative paths "
                    f"start, but one of the working directory: write {str(path.absolute())!r} for that folder, or run "
                    "the command in another directory for the hub's model of this name"
                )
            return None
        if not path.is_dir():
            raise InputError(f"teacher.encoder = {self.encoder!r}: there is no such folder")
        return path


# Rules of the pruner, of `hpo.pruning`.
RuleName = Literal["improvement", "asha"]
# Fewer scenes at the first rung say too little.
FEWEST_SCENES = 10


class PrunerSection(Section):
    """The pruner and its rungs; the last rung ends a trial.

    Attributes:
        kind: Whether trials are pruned by validation recall, or each is trained to the end.
        resource: Unit of `rungs`: "updates" (meta-updates: the same search on any machine) or "seconds" (of training,
            by the measured seconds of the trial's own updates: learners compete at equal cost).
        rule: Which trials continue from a rung: "improvement" (those whose chance to end above the best finished trial
            is worth their seconds) or "asha" (the best one in `eta`).
        eta: With the rule "asha", and always of students, one in `eta` continues.
        rungs: Where trials are compared, in `resource`; recall at a very early rung predicts little of the final one.
        first_rung_scenes: Fraction of the validation scenes (of classification, episodes), ten at least, that are
            evaluated at the first rung of several. Its recalls are only compared with each other.
        keep: Fraction of the trials in the no-prune control group; the report counts false prunes with it.
    """

    kind: Literal["recall", "none"] = "recall"
    resource: Literal["updates", "seconds"] = "updates"
    rule: RuleName = "improvement"
    eta: Annotated[int, Field(ge=2)] = 3
    rungs: list[PositiveInt] = Field(default_factory=lambda: [30, 90, 270], min_length=1)
    first_rung_scenes: Annotated[float, Field(gt=0, le=1)] = 1.0
    keep: Annotated[float, Field(ge=0, le=1)] = 0.02

    @field_validator("rungs")
    @classmethod
    def _rungs_increase(cls, rungs: list[int]) -> list[int]:
        return increasing("rungs", rungs)

    def scenes_at(self, rung: int, names: Collection[str]) -> frozenset[str]:
        """Return those of the validation scenes of these names that are evaluated at a rung, the first being 0.

        Those of the first one are spread evenly over the names.
        """
        ordered = sorted(set(names))
        count = min(len(ordered), max(FEWEST_SCENES, math.ceil(self.first_rung_scenes * len(ordered))))
        if rung > 0 or len(self.rungs) == 1:
            count = len(ordered)
        return frozenset(ordered[place * len(ordered) // count] for place in range(count))


class FinalistsSection(Section):
    """The best trials, re-evaluated on other draws of the validation scenes before the winners are chosen.

    Attributes:
        count: Finished trials to re-evaluate, at least `distill.space.teachers`; a small search finishes so many.
        draws: Number of other draws of the validation scenes' supports and queries.
    """

    count: PositiveInt = 4
    draws: PositiveInt = 3


class ExportSection(Section):
    """The folder and formats of the best student.

    Attributes:
        folder: Folder of the export; relative ones start at the working directory. Without it, exports/NAME.
        formats: What the export holds; "hf" is always added, and "onnx" to "onnx-int8" and "triton".
        precision: Precision of the weights in model.safetensors.
    """

    folder: str | None = None
    formats: list[Format] = Field(default_factory=_plain)
    precision: Precision = "fp32"

    @field_validator("formats")
    @classmethod
    def _implied(cls, formats: list[Format]) -> list[Format]:
        wanted = {"hf", *formats, *(["onnx"] if {"onnx-int8", "triton"} & {*formats} else [])}
        return [name for name in get_args(Format) if name in wanted]


class StudyDefinition(Section):
    """A study without its data; a task's own sets the types of `task`, `protocol` and `search`.

    Attributes:
        name: Name of the study, under which every command finds it.
        task: What is predicted.
    """

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

    @property
    def student(self) -> str:
        """Return the kind of its students, a row of the registry of what is exported: by default its task's."""
        return self.task

    def finalist_count(self) -> int:
        """Return the number of trials to re-evaluate; the teachers are chosen among them."""
        return max(self.finalists.count, self.distill.teachers)

    def with_pretrained_encoder(self) -> Self:
        """Return the study with its encoder as it was pretrained."""
        return self.model_copy(update={"teacher": self.teacher.model_copy(update={"adapt": None})})

    def export_folder(self) -> Path:
        """Return the folder that `hpo run` exports the student to."""
        return Path(self.export.folder or f"exports/{self.name}")
