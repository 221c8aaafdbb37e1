"""The manifest of an export: where it comes from, its figures, and the digest of every file.

`distill/export/writer.py` writes it, `distill/serving/loader.py` refuses a folder whose files differ from it. Nothing
here loads torch: the dashboard reads manifests.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    field_serializer,
    model_serializer,
    model_validator,
)

from distill.evaluation import StudyEvaluation, TeacherReference
from distill.export import bounds
from distill.export.tasks.registry import EXPORTED, ExportedTask, exported_as
from storage.errors import InputError
from storage.files.atomic import sha256
from studies.config.definition import Format, Pooling, Precision, StudyDefinition
from studies.config.hyperparameters import Hyperparameters
from studies.evaluation.figures import Figures, misfit

FORMAT = 6
MANIFEST = "manifest.json"
HEAD = "head.safetensors"
PROJECTION = "2_Dense/model.safetensors"  # of a narrow student; where sentence-transformers looks for a Dense module
# Paths of the ONNX graphs, by format.
GRAPHS: dict[Format, str] = {"onnx": "onnx/model.onnx", "onnx-int8": "onnx/model_int8.onnx"}
# Files without which no export can be served: every manifest must list them, and those of its task.
SERVED = ("config.json", "model.safetensors", "tokenizer.json", HEAD)
_REMEDY = "export the study again, or restore the folder from a copy"


class EncoderReference(Figures):
    """The encoder that the teachers were built on.

    Attributes:
        name: Its name in the study file.
        sha256: Its identity.
        vocabulary: Number of its tokens.
        unlike: What of it a student starts without, in words.
    """

    name: str
    sha256: str
    vocabulary: int | None
    unlike: Annotated[str, Field(max_length=1000)] = ""


class Lineage(Figures):
    """The study of students, the trial that is exported, and its teachers."""

    distillation: str
    trial: int
    teachers: tuple[TeacherReference, ...]


class Origin(Figures):
    """Where a student comes from and how good it is: what the caller of the export says.

    Attributes:
        study: The study's name.
        study_id: Its id, which no other study of the same name has.
        spec: Its study file, as JSON.
        data_fingerprint: Of its data.
        encoder: What the teachers were built on.
        lineage: How the student was made; None where no study made it.
        metrics: The study's evaluation; None where it was not evaluated.
    """

    study: bounds.StudyName
    study_id: bounds.StudyId
    spec: bounds.Definition
    data_fingerprint: str
    encoder: EncoderReference
    lineage: Lineage | None = None
    metrics: StudyEvaluation | None = None

    @property
    def definition(self) -> StudyDefinition:
        """The study file without its data, of the task's own type."""
        return bounds.parse_definition(self.spec)


class FormatFigures(Figures, frozen=False):
    """What was measured of one format; None, and no key in the manifest, where it was not measured.

    Attributes:
        cosine: Least cosine of a text's vector to the student's own.
        sentence_transformers_cosine: The same, opened by sentence-transformers.
        agreement: Share of the student's answers that the format gives as well: of items in a top 10, or of labels.
        served_agreement: The same of the answers that our library gives.
        classifier_agreement: The same of the labels that transformers' pipeline or a graph's logits give, if they do.
        recall: Recall on the validation scenes with 8-bit weights.
        recall_fp32: Recall on the validation scenes in fp32.
        texts_per_second: On the CPU that wrote the export, by format.
    """

    cosine: float | None = None
    sentence_transformers_cosine: float | None = None
    agreement: float | None = None
    served_agreement: float | None = None
    classifier_agreement: float | None = None
    recall: float | None = None
    recall_fp32: float | None = None
    texts_per_second: dict[str, float] | None = None

    @model_serializer(mode="wrap")
    def _measured(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in serialize(self).items() if value is not None}


class VocabularySize(Figures):
    """How many tokens were kept, of how many."""

    kept: bounds.VocabularyRows
    of: int | None


class ParameterCounts(Figures):
    """Numbers of parameters."""

    encoder: int
    head: int


class Manifest(Origin):
    """What an export says of itself.

    Attributes:
        format: Version of this description.
        task: The study's.
        opens_with: What predicts with it without scenetune; "" where nothing does.
        max_tokens: Where texts are cut.
        prefix: What stands before every text.
        pooling: How the tokens' states become a text's vector.
        layers: Of the encoder.
        width: Of the encoder.
        dimensions: Of the vectors.
        learner: The values by which the head adapts.
        labels: Names of the classes that it was trained on, where it classifies among these alone.
        elsewhere: Whether it reads what is known of items elsewhere: where the study's scenes share items.
        distillation: The values by which the student was trained, by their names in the study file.
        vocabulary: The tokens of the encoder.
        parameters: Of encoder and head.
        precision: Of the stored weights.
        formats: What the export holds, with what was measured of each.
        checks: How programs opened the folder, by name: "opened" in a fresh process, or what was done instead.
        versions: Of the packages that wrote it.
        bytes: Size of all other files.
        files: Their SHA-256, by path.
    """

    format: int = FORMAT
    task: bounds.TaskName
    opens_with: str = ""
    max_tokens: bounds.Tokens
    prefix: bounds.Prefix = ""
    pooling: Pooling = "mean"
    layers: bounds.Layers
    width: bounds.Width
    dimensions: bounds.Width
    learner: bounds.Learner
    labels: bounds.Labels = ()
    elsewhere: bool = False
    distillation: bounds.Distillation
    vocabulary: VocabularySize
    parameters: ParameterCounts
    precision: Precision
    formats: dict[Format, FormatFigures]
    checks: dict[bounds.Words, bounds.Words] = Field(default_factory=dict)
    versions: dict[str, str]
    bytes: int = 0
    files: dict[bounds.FileName, bounds.Digest] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _complete(self) -> Manifest:
        if "hf" not in self.formats:
            raise ValueError("formats lack hf")
        if self.metrics is not None and "student" not in self.metrics.systems:
            raise ValueError("metrics.systems lack the student")
        if self.task != (study := self.definition).task:
            raise ValueError(f"task is {self.task!r}, that of the study file {study.task!r}")
        if study.student not in EXPORTED:
            raise ValueError(f"students of {study.student} are not exported")
        return self

    @property
    def kind(self) -> ExportedTask:
        """What an export of such students has."""
        return exported_as(self.definition)

    @property
    def form(self) -> Any:
        """How the head reads the encoder: a `distill.forms.form.StudentForm`."""
        return self.kind.part("form")

    def blank_head(self) -> Any:
        """Return a head of random weights, of its shape."""
        return self.kind.blank_head(self.dimensions, self.learner, self.labels, elsewhere=self.elsewhere)

    @property
    def reads_pairs(self) -> bool:
        """Whether the student was trained on pairs of texts."""
        data = self.spec.get("data")
        return isinstance(data, dict) and (bool(data.get("text_pair")) or data.get("log") == "coupons")

    @field_serializer("learner")
    def _applying(self, learner: Hyperparameters) -> dict[str, Any]:
        return learner.to_dict()


def seal(folder: Path, manifest: Manifest) -> None:
    """Write the manifest last, over an older one: with the size and the SHA-256 of every other file."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / MANIFEST)
    for path in files:
        path.chmod(0o644)  # safetensors makes its files private; an export is made to be passed on
    sealed = manifest.model_copy(
        update={
            "bytes": sum(path.stat().st_size for path in files),
            "files": {path.relative_to(folder).as_posix(): sha256(path) for path in files},
        }
    )
    text = json.dumps(sealed.to_json(), indent=2, ensure_ascii=False)
    (folder / MANIFEST).write_text(f"{text}\n", encoding="utf-8")


def verify(folder: Path) -> Manifest:
    """Return the manifest of an export after checking that every file is as it was written.

    Raises:
        InputError: The folder is no export, of another version, or a file is missing or altered.
    """
    manifest = read(folder)
    files = manifest.files
    graphs = [GRAPHS[name] for name in manifest.formats if name in GRAPHS]
    for name in dict.fromkeys((*SERVED, *manifest.kind.files, *graphs, *files)):
        path = folder / name
        if name not in files or not path.is_file():
            raise InputError(f"the export {folder} has no {name}: {_REMEDY}")
        try:
            intact = sha256(path) == files[name]
        except OSError as error:
            raise InputError(f"{path} cannot be read ({error.strerror}): {_REMEDY}") from error
        if not intact:
            raise InputError(f"{path} does not have the SHA-256 in {MANIFEST}: it was altered or truncated; {_REMEDY}")
    return manifest


def is_export(folder: Path) -> bool:
    """Return whether `folder` holds an export, intact or not, of this version or another."""
    try:
        manifest = bounds.read_json(folder / MANIFEST)
    except (OSError, ValueError):
        return False
    return isinstance(manifest, dict) and {"format", "study", "learner", "files"} <= manifest.keys()


def owner(folder: Path) -> str | None:
    """Return the id of the study that a folder holds an export of; None where it holds none, or of another version."""
    try:
        return read(folder).study_id
    except InputError:
        return None


def read(folder: Path) -> Manifest:
    """Return the manifest of an export, whether its files still are what it says or not.

    Raises:
        InputError: The folder is no export, or one of another version.
    """
    path = folder / MANIFEST
    try:
        manifest = bounds.read_json(path)
    except OSError as error:
        raise InputError(
            f"{folder} is not an export: {MANIFEST} cannot be read ({error.strerror}); name a folder that "
            "hpo run or hpo export wrote"
        ) from error
    except ValueError as error:
        raise InputError(f"{path} is not JSON ({error}): {_REMEDY}") from error
    found = manifest.get("format") if isinstance(manifest, dict) else None
    if found != FORMAT:
        raise InputError(
            f"{path} has format {found!r}, this version reads {FORMAT}: use the version of scenetune that wrote it, "
            "or export the study again"
        )
    try:
        return Manifest.model_validate(manifest)
    except ValidationError as error:
        raise InputError(f"{path} is not a manifest ({misfit(error)}): {_REMEDY}") from error
