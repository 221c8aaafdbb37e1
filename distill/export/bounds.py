"""What a manifest may say: an export may come from anyone, so every value is bounded before a file is opened.

`distill/export/manifest.py` names these types; `distill/serving/encoder_files.py` bounds the encoder's own files.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, StringConstraints, ValidationError, ValidationInfo

from distill.hyperparameters import StudentHyperparameters
from storage.errors import InputError
from storage.home import check_study_name
from studies.config.definition import StudyDefinition, TeacherSection
from studies.config.distill_section import student_parameters
from studies.config.hyperparameters import INNER_LOOP, Hyperparameters
from studies.config.search_domains import Parameters, check_domain
from studies.evaluation.figures import Settings, misfit
from studies.tasks import task_of

# A manifest with the figures of a thousand scenes has a megabyte.
MAX_MANIFEST_BYTES = 2**25
MAX_LAYERS, MAX_WIDTH, MAX_VOCABULARY, MAX_LABELS = 48, 8192, 2**20, 2**17

Layers = Annotated[int, Field(ge=1, le=MAX_LAYERS)]
Width = Annotated[int, Field(ge=1, le=MAX_WIDTH)]
VocabularyRows = Annotated[int, Field(ge=1, le=MAX_VOCABULARY)]
Tokens = Annotated[int, *TeacherSection.model_fields["max_tokens"].metadata]
# A program that opens the folder, or how that was checked.
Words = Annotated[str, StringConstraints(max_length=1000)]
Prefix = Annotated[str, StringConstraints(max_length=1000)]
StudyId = Annotated[str, StringConstraints(pattern="^[0-9a-f]{32}$")]
Digest = Annotated[str, StringConstraints(pattern="^[0-9a-f]{64}$")]
# A file, at most three folders deep: no "..", no absolute path, nothing hidden, nothing a terminal interprets.
_NAME = "[A-Za-z0-9_][A-Za-z0-9_.-]*"
FileName = Annotated[str, StringConstraints(max_length=200, pattern=f"^({_NAME}/){{0,3}}{_NAME}$")]


def read_json(path: Path) -> Any:
    """Return the value of a JSON file of bounded size.

    Raises:
        OSError: It cannot be read.
        ValueError: It is no ordinary file, too long, or not JSON.
    """
    if path.exists() and not path.is_file():
        raise ValueError("it is no ordinary file")
    if (size := path.stat().st_size) > MAX_MANIFEST_BYTES:
        raise ValueError(f"it has {size:,} bytes, at most {MAX_MANIFEST_BYTES:,} are read")
    try:
        return json.loads(path.read_bytes())
    except RecursionError as error:
        raise ValueError("its values are nested too deep") from error


def _study_name(name: str) -> str:
    try:
        check_study_name(name)
    except InputError as error:
        raise ValueError(str(error)) from error
    return name


def parse_definition(spec: dict[str, Any]) -> StudyDefinition:
    """Return a study file without its data, whatever its task.

    A machine that serves reads no data, and those who do check `[data]`.

    Raises:
        ValueError: A value is none that a study file may have.
    """
    task = task_of(spec)
    model: Any = task.part(task.definition)
    try:
        found: StudyDefinition = model.model_validate({key: value for key, value in spec.items() if key != "data"})
    except ValidationError as error:
        raise ValueError(misfit(error)) from error
    return found


def _definition(spec: dict[str, Any]) -> dict[str, Any]:
    parse_definition(spec)
    return spec


def _learner(given: Any, info: ValidationInfo) -> Any:
    """Check a learner's hyperparameters as the study file's are: the inner loop runs as often as they say."""
    values = given.to_dict() if isinstance(given, Hyperparameters) else given
    if not isinstance(values, dict):
        raise ValueError("a learner is a table of hyperparameters")
    if "spec" not in info.data:
        raise ValueError("there is no study file to check it by")
    study = parse_definition(info.data["spec"])
    _check_values(values, study.search.parameters())
    learner = Hyperparameters(**values)
    adapts = learner.entry.takes_gradient_steps and study.protocol.support_shots > 0
    if adapts and (missing := [n for n in INNER_LOOP[:2] if n not in values]):
        raise ValueError(f"{learner.learner} needs {missing[0]}")
    return learner


def _distillation(values: Settings) -> Settings:
    _check_values(values, student_parameters())
    StudentHyperparameters.from_dict(values)
    return values


def _check_values(values: dict[str, Any], parameters: Parameters) -> None:
    for name, value in values.items():
        if isinstance(value, dict | list) or value is None:
            raise ValueError(f"{name} has {value!r}, which is not one value")
        check_domain(name, value, parameters)


StudyName = Annotated[str, AfterValidator(_study_name)]
TaskName = Annotated[str, StringConstraints(max_length=100)]
Definition = Annotated[dict[str, Any], AfterValidator(_definition)]
Learner = Annotated[Hyperparameters, BeforeValidator(_learner)]
Labels = Annotated[
    tuple[Annotated[str, StringConstraints(min_length=1, max_length=10_000)], ...], Field(max_length=MAX_LABELS)
]
Distillation = Annotated[Settings, AfterValidator(_distillation)]
