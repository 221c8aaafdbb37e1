"""Describes a student: its manifest before there are files."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

from distill.export.manifest import FormatFigures, Manifest, Origin, ParameterCounts, VocabularySize
from distill.export.tasks.registry import exported_as
from distill.student import Student, parameters
from studies.config.definition import Format, Precision

# Packages whose versions affect what an export holds.
_PACKAGES = ("scenetune", "torch", "transformers")
_ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")


def describe(
    student: Student, origin: Origin, formats: Sequence[Format] = ("hf",), precision: Precision = "fp32"
) -> Manifest:
    """Return the manifest without its files.

    Args:
        student: What is exported.
        origin: Where it comes from.
        formats: What the export holds.
        precision: Of the stored weights.
    """
    width, projection = int(student.tower.model.config.hidden_size), student.tower.projection
    dimensions = width if projection is None else int(projection.out_features)
    kind, learner = exported_as(origin.definition), student.learner.hyperparameters
    labels = tuple(getattr(student.head, "labels", ()))
    elsewhere = getattr(student.head, "elsewhere", None) is not None
    return Manifest(
        **dict(origin),
        task=origin.definition.task,
        opens_with=kind.opens_with or None,
        max_tokens=student.max_tokens,
        prefix=student.prefix,
        pooling=student.tower.pooling,
        layers=int(student.tower.model.config.num_hidden_layers),
        width=width,
        dimensions=dimensions,
        learner=learner,
        labels=labels,
        elsewhere=elsewhere,
        distillation=student.hyperparameters.to_dict(),
        vocabulary=VocabularySize(kept=int(student.tower.model.config.vocab_size), of=origin.encoder.vocabulary),
        parameters=ParameterCounts(
            encoder=sum(p.numel() for p in student.tower.served_parameters()),
            head=parameters(kind.blank_head(dimensions, learner, labels, elsewhere=elsewhere)),
        ),
        precision=precision,
        formats={name: FormatFigures() for name in formats},
        versions={name: _version(name) for name in (*_PACKAGES, *(_ONNX_PACKAGES if "onnx" in formats else ()))},
    )


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed (run from its source)"
