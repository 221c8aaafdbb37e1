"""An exported student: what its manifest says of its origin, and its recall measured again."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

from distill.evaluation import ExportEvaluation, StudyEvaluation
from distill.export.manifest import GRAPHS, EncoderReference, Lineage, Origin
from distill.export.task_export import TaskExport
from distill.export.tasks.registry import exported_as
from distill.export.writer import export
from distill.inference import as_student, load_export
from distill.objective import Student, evaluate
from distill.serving.onnx_tower import through
from hpo.ownership import OwnedStudy
from hpo.results.evaluation import check_rankings
from storage.errors import InputError
from storage.home import cache_folder
from studies.config.definition import Format
from studies.config.spec import StudySpec, parse_spec
from studies.data.source import Source
from studies.evaluation.intervals import bootstrap
from studies.evaluation.trec import check_dump
from studies.model.encoder import tokenize
from studies.model.pretrained.architectures import unlike
from studies.progress import SILENT, ProgressReporter
from studies.training.prepare import prepare
from studies.training.problem import Problem


def write_student(
    spec: StudySpec,
    problem: Problem,
    evaluation: StudyEvaluation,
    owned: OwnedStudy,
    student: Student,
    folder: Path,
    *,
    replace: bool,
) -> None:
    """Write a student's folder in the formats of the spec.

    Args:
        spec: The study.
        problem: The study's data.
        evaluation: Of the study.
        owned: The study of students.
        student: The one that is exported.
        folder: The export.
        replace: Whether to replace an older export.

    Raises:
        ScenetuneError: A format does not reproduce the student's output, or costs too much recall.
    """
    task: type[TaskExport] = exported_as(spec).part("export")
    export(
        student,
        task.of(problem),
        folder,
        origin(spec, problem, evaluation, owned, student),
        formats=spec.export.formats,
        precision=spec.export.precision,
        replace=replace,
        problem=problem,
    )


def origin(
    spec: StudySpec, problem: Problem, evaluation: StudyEvaluation, owned: OwnedStudy, student: Student
) -> Origin:
    """Return what an export says of its origin."""
    encoder = problem.encoder
    return Origin(
        study=owned.study,
        study_id=owned.id,
        spec=spec.model_dump(mode="json"),
        data_fingerprint=problem.data.fingerprint,
        encoder=EncoderReference(
            name=encoder.name,
            sha256=encoder.identity,
            vocabulary=encoder.config.vocab_size,
            unlike=unlike(encoder.config),
        ),
        lineage=Lineage(
            distillation=owned.name,
            trial=evaluation.student_trial,
            # Of the winners that were scored, those that this student learnt from: the best ones.
            teachers=evaluation.teachers[: student.hyperparameters.teachers],
        ),
        metrics=evaluation,
    )


def evaluate_export(
    folder: Path,
    reporter: ProgressReporter = SILENT,
    dump: Path | None = None,
    data: Source | None = None,
    format: Format = "hf",
) -> ExportEvaluation:
    """Score an exported student on the test scenes of the study that its manifest describes.

    Args:
        folder: The export.
        reporter: Told of long steps.
        dump: Folder for the rankings in TREC formats; must not exist.
        data: Where the study's data are now; by default where the manifest says.
        format: Which of its encoders gives the vectors.

    Raises:
        InputError: The folder is not an intact export, lacks the format or was never evaluated, or the data are not
            those of its study.
    """
    if dump is not None:
        check_dump(dump)
    exported = load_export(folder)
    manifest = exported.manifest
    held = [name for name in manifest.formats if name in ("hf", *GRAPHS)]
    if format not in held:
        raise InputError(
            f"{folder} has no format {format} to evaluate, it has {', '.join(held)}; export it with --format {format}"
        )
    if (recorded := manifest.metrics) is None:
        raise InputError(f"{folder} was exported without an evaluation; export it from an evaluated study")
    spec = parse_spec(manifest.spec, f"the manifest of {folder}")
    check_rankings(spec, dump)
    # A student has an encoder of its own: the teachers' need not be adapted again.
    spec = (spec if data is None else spec.model_copy(update={"data": data})).with_pretrained_encoder()
    problem = prepare(spec, cache_folder(), reporter=reporter)
    if problem.data.fingerprint != manifest.data_fingerprint:
        raise InputError(
            f"{folder} was evaluated on other data (fingerprint {manifest.data_fingerprint[:12]}, here "
            f"{problem.data.fingerprint[:12]}); give the same files and versions as then"
        )
    tokens = tokenize(exported.tokenizer, problem.data.texts, exported.max_tokens, prefix=exported.prefix)
    student = as_student(exported, tokens)
    if format != "hf":
        student = through(folder / GRAPHS[format], student)
    writing = problem.writing(dump, problem.test) if dump else nullcontext()
    with writing as writer:
        run = writer.run("student") if writer else None
        result = evaluate(student, problem, problem.test, reporter, run)
    return ExportEvaluation(
        study=spec.name,
        task=spec.task,
        kind=spec.protocol.kind,
        format=format,
        metric=recorded.metric,
        shots=recorded.shots,
        scenes=len(result.scenes),
        recall=bootstrap(result.values()),
        recorded=recorded.systems["student"].recall,
    )
