"""Sections on what the figures rest on: what inference costs, the data, the protocol, the commands."""

from __future__ import annotations

import shlex

from distill.evaluation import EncoderFigures, InferenceFigures, Retention
from hpo.reporting.blocks import Block, Cell, Commands, Row, Section, Table, Terms, Text, limits, spelled
from hpo.reporting.document import StudyDocument
from hpo.reporting.results import SIGNED
from hpo.reporting.task_words import data_size
from hpo.status.console import duration
from studies.config.protocol_section import SplitBy
from studies.evaluation.figures import AdaptationFacts
from studies.evaluation.intervals import Interval

# How scenes were split, in words.
SPLIT: dict[SplitBy, str] = {
    "hash": "hash; the log is cut at two times (timeline)",
    "opening": "when they start; the log is cut at the first start of each part (timeline is not used)",
}


def inference(document: StudyDocument) -> Section | None:
    """Return what teacher and student cost, and how much of the teacher is left."""
    if (evaluation := document.finished) is None:
        return None
    blocks: list[Block] = [Text(retention_sentence(evaluation.retention)), inference_table(evaluation.inference)]
    return Section("inference", "What inference costs", blocks)


def inference_table(measured: InferenceFigures) -> Table:
    """Return teacher and student side by side."""
    teacher, student = measured.teacher, measured.student
    ratios = [
        (student.parameters, teacher.parameters),
        (student.bytes, teacher.bytes),
        (student.items_per_second, teacher.items_per_second),
    ]
    rows: list[Row] = [
        ["teacher", *_encoder(teacher)],
        ["student", *_encoder(student)],
        ["student / teacher", *(Cell(f"{ours / theirs:.2f}×" if ours and theirs else None) for ours, theirs in ratios)],
    ]
    return Table("Inference, measured where the job ran", ["", "parameters", "size", "texts/s"], rows)


def _encoder(found: EncoderFigures) -> list[Cell]:
    rate = found.items_per_second
    return [
        Cell(f"{found.parameters / 1e6:.1f} M"),
        Cell(f"{found.bytes / 1e6:.0f} MB"),
        Cell(None if rate is None else f"{rate:.0f}"),
    ]


def retention_sentence(retention: Retention) -> str:
    """Return how much of the best teacher the student keeps; no ratio to what is within noise."""
    recall, lift, bounds = retention.recall, retention.lift, retention.intervals
    if recall is None:
        return "The teacher has no recall that is surely above zero, so nothing says how much of it the student keeps."
    kept = f"{_kept(recall, bounds.recall, '.1%')} of the best teacher's recall"
    if lift is not None:
        return f"The student keeps {kept}; {_kept(lift, bounds.lift, '.0%')} of its lift over {retention.baseline}."
    said = "is below zero" if retention.teacher_lift.high < 0 else "is not distinguishable from zero"
    over = f"the teacher's lift over {retention.baseline} {said}: {spelled(retention.teacher_lift, SIGNED)}"
    return f"The student keeps {kept}; {over}."


def _kept(value: float, interval: Interval | None, form: str) -> str:
    bounds = f" {limits(interval, f'{{:{form}}}')}" if interval else ""
    return f"{value:{form}}{bounds}"


def adaptation_sentence(found: AdaptationFacts) -> str:
    """Return what an encoder was trained on before the search."""
    rows = [(found.interactions, "{:,} interactions"), (found.labelled, "the labels of {:,} texts")]
    read = ", ".join([f"{found.texts:,} texts", *(words.format(count) for count, words in rows if count)])
    return (
        f"The encoder, {found.encoder}, was trained on {read} of the shop before the search: "
        f"{' and '.join(found.objectives)}, {found.steps:,} steps in {duration(found.seconds)}."
    )


def data_and_protocol(document: StudyDocument) -> Section:
    """Return the data, and how they were split."""
    data = document.data
    pairs = [
        ("source", data.source),
        ("size", data_size(data)),
        *([("time", f"{data.first_day} to {data.last_day}")] if data.first_day else []),
        ("fingerprint", data.fingerprint),
        *([("scenes split by", SPLIT[data.split_by])] if data.split_by else []),
    ]  # fmt: skip
    rows = [[name, _setting(value)] for name, value in document.protocol.items()]
    protocol = Table("The protocol, as the study file sets it", ["setting", "value"], rows)
    adaptation = document.evaluation.adaptation
    said = [] if adaptation is None else [Text(adaptation_sentence(adaptation))]
    return Section("data", "Data and protocol", [Terms(pairs), *said, protocol])


def reproduction(document: StudyDocument) -> Section:
    """Return the commands that give these figures again."""
    verb = "baselines" if document.baselines_only else "run"
    lines = [f"hpo {verb} STUDY.toml"]
    if document.export:
        lines.append(f"hpo evaluate {shlex.quote(document.export)}")
    text = (
        f"With scenetune {document.version}, the study file of {document.study} and data of the same "
        f"fingerprint. report.json, beside this page, holds every figure on it."
    )
    return Section("reproduce", "How to reproduce this", [Text(text), Commands(lines)])


def _setting(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
