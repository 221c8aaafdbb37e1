"""The section on the distillation: every student that was tried, and which of them no other is better than."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hpo.reporting import figures
from hpo.reporting.blocks import (
    NOTHING,
    Block,
    Cell,
    Drawing,
    Drawings,
    Row,
    Section,
    Table,
    Text,
    figure,
    plural,
    settings,
)

Figures = Mapping[str, Any]


def students(document: Figures) -> Section | None:
    """What was distilled; nothing where an older version's evaluation does not say."""
    evaluation = document["evaluation"]
    tried = evaluation.get("students")
    if not tried:
        return None
    axis = f"validation recall@{evaluation['k']}"
    teachers = evaluation.get("teachers") or []
    teacher = teachers[0]["validation_recall"] if teachers else None
    finished = [student for student in tried if student["latency"] is not None]
    blocks: list[Block] = [Text(_sentence(tried, teacher, axis))]
    if finished:
        points = [figures.Student(s["latency"], s["recall"], s["size"], s["front"], s["taken"]) for s in finished]
        label = f"{axis} of {plural(len(points), 'student')} against the time to encode a text"
        caption = (
            "Time of the student's encoder over the teacher's, for the same texts in turns; areas are parameters. The "
            "line joins the students that none other is at least as good as in recall, time and size and better in one."
        )
        blocks.append(Drawings([Drawing(figures.front(points, teacher, axis, label), caption)]))
    return Section("students", "The students", [*blocks, _table(tried, axis)])


def _sentence(tried: Sequence[Figures], teacher: float | None, axis: str) -> str:
    taken = next((student for student in tried if student["taken"]), None)
    pruned = sum(student["state"] == "pruned" for student in tried)
    said = f"{plural(len(tried), 'student')} were distilled, of which {pruned} stopped early."
    if taken is None or not taken["recall"]:
        return said
    kept = f", {taken['recall'] / teacher:.1%} of the best teacher's {axis}" if teacher else ""
    return (
        f"{said} Trial {taken['trial']} was taken: {taken['size']:.2f}× the parameters and {taken['latency']:.2f}× the "
        f"time of the teacher's encoder{kept}."
    )


def _table(tried: Sequence[Figures], axis: str) -> Table:
    rows: list[Row] = []
    for student in sorted(tried, key=lambda student: (-(student["recall"] or 0.0), student["trial"])):
        place = "taken" if student["taken"] else "on the front" if student["front"] else student["state"]
        rows.append(
            [
                str(student["trial"]),
                figure(student["recall"], "{:.4f}"),
                *(Cell(NOTHING if student[key] is None else f"{student[key]:.2f}×") for key in ("latency", "size")),
                place,
                student["reason"] or "",
                settings(student["params"]),
            ]
        )
    return Table("All students", ["trial", axis, "time", "parameters", "", "reason", "settings"], rows)
