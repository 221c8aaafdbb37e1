"""Writes a student as one folder that transformers, sentence-transformers, serving stacks and scenetune open.

Last step of the path; the folder appears whole, or not at all. A fresh process opens the draft and must get the same
vectors and answers before it becomes visible under its name.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from distill.export.card import model_card
from distill.export.checks import check as _check_parity
from distill.export.description import describe
from distill.export.int8_graph import write_int8
from distill.export.layout import DTYPES, write_encoder, write_head, write_sentence_transformers
from distill.export.manifest import GRAPHS, Manifest, Origin, is_export, seal
from distill.export.onnx_graph import check_packages, write_onnx
from distill.export.stacks.torch_package import TORCH_PACKAGE, write_torch_package
from distill.export.stacks.triton import write_triton
from distill.export.task_export import TaskExport
from distill.student import Student
from storage.errors import InputError
from storage.files.atomic import atomic_folder
from storage.files.outputs import check_place
from studies.config.definition import Format, Precision
from studies.progress import SILENT, ProgressReporter
from studies.training.problem import Problem


def export(
    student: Student,
    task: TaskExport,
    folder: Path,
    origin: Origin,
    *,
    formats: Sequence[Format] = ("hf",),
    precision: Precision = "fp32",
    replace: bool = False,
    problem: Problem | None = None,
) -> Path:
    """Write `folder` and return it.

    Args:
        student: What to write, in fp32; the copy of its tokenizer truncates at `max_tokens` and gives no token types.
        task: What an export has of the study's task.
        folder: The export; must not exist.
        origin: Where the student comes from, and its figures.
        formats: "hf", and with it "onnx" and "pt2", and with "onnx" "onnx-int8" and "triton".
        precision: In which model.safetensors is stored; graphs and head stay fp32.
        replace: Put the export in the place of an older one.
        problem: The study's data, on which answers are compared and 8-bit weights are measured; its reporter shows
            each stage.

    Raises:
        InputError: `folder` exists, `replace` would destroy something that is not an export, or a package that a
            format needs is missing, or the disk lacks the room.
        ArtifactsUnavailable: A write failed, as on a full disk.
        ScenetuneError: A fresh process does not get the same vectors or answers, or 8-bit weights cost too much recall;
            nothing was exported.
    """
    check_replaceable(folder, replace=replace)
    if "onnx" in formats:
        check_packages()
    described = describe(student, origin, formats, precision)
    check_place(folder, "name another folder", _bytes(described))
    reporter = problem.reporter if problem is not None else SILENT
    with atomic_folder(folder, replace) as draft:
        write_encoder(student, draft, precision)
        write_sentence_transformers(student, draft, precision)
        write_head(student.head, described, draft)
        task.write(student, draft)
        _write_graphs(student, draft, formats, reporter)
        if "triton" in formats:
            write_triton(draft, described)
        seal(draft, described)  # so that the draft opens
        _check_parity(student, draft, described, task, problem)
        (draft / "README.md").write_text(model_card(described), encoding="utf-8")
        seal(draft, described)
    return folder


def check_replaceable(folder: Path, *, replace: bool) -> None:
    """Raise where replacing a folder would destroy something that is not an export.

    Raises:
        InputError: `folder` is to be replaced and is not an export.
    """
    if replace and folder.exists() and not is_export(folder):
        raise InputError(f"{folder} exists and is not an export, so it is not replaced; name another folder")


def _bytes(manifest: Manifest) -> int:
    """Return about how many bytes an export takes: those of its weights, once per format."""
    encoder, formats = manifest.parameters.encoder, manifest.formats
    sizes = [DTYPES[manifest.precision].itemsize, 1 * ("onnx-int8" in formats)]
    sizes += [4 * (name in formats) for name in ("onnx", "pt2")]
    return encoder * sum(sizes) + 4 * manifest.parameters.head


def _write_graphs(student: Student, draft: Path, formats: Sequence[Format], reporter: ProgressReporter) -> None:
    if "pt2" in formats:
        package = draft / TORCH_PACKAGE
        package.parent.mkdir()
        reporter.note("writing the package of torch.export")
        write_torch_package(student, package)
    if "onnx" not in formats:
        return
    graph = draft / GRAPHS["onnx"]
    graph.parent.mkdir()
    reporter.note("writing the ONNX graph")
    write_onnx(student, graph)
    if "onnx-int8" in formats:
        reporter.note("writing the ONNX graph with 8-bit weights")
        write_int8(graph, draft / GRAPHS["onnx-int8"])
