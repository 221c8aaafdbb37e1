"""The section on the distillation: every student that was tried, and which of them no other is better than."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from distill.evaluation import StudentRow
from hpo.reporting import drawings
from hpo.reporting.blocks import (
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
    spelled,
)
from hpo.reporting.document import StudyDocument
from hpo.reporting.results import SIGNED
from hpo.reporting.task_words import TaskWords, words_of


def students(document: StudyDocument) -> Section | None:
    """Return what was distilled."""
    if (evaluation := document.finished) is None:
        return None
    metric, rows = f"validation {evaluation.metric}", evaluation.students
    words = words_of(evaluation)
    teacher = evaluation.teachers[0].validation_recall
    blocks: list[Block] = [
        Text(_sentence(rows, teacher, metric)),
        *map(Text, undertrained_sentences(rows, metric, words)),
    ]
    if evaluation.unlike:
        blocks.append(Text(f"They started without {evaluation.unlike}, which DistilBERT does not have."))
    points = [
        drawings.Student(row.latency, row.recall, row.size, row.front, row.taken)
        for row in rows
        if row.latency is not None and row.recall is not None and row.size is not None
    ]
    if points:
        label = f"{metric} of {plural(len(points), 'student')} against the time to encode a text"
        caption = (
            "Time of the student's encoder over the teacher's, for the same texts in turns; areas are parameters. The "
            "line joins the students that none other is at least as good as in recall, time and size and better in one."
        )
        blocks.append(Drawings([Drawing(drawings.front(points, teacher, metric, label), caption)]))
    return Section("students", "The students", [*blocks, students_table("All students", rows, metric, reasons=True)])


def students_table(caption: str, rows: Sequence[StudentRow], metric: str, *, reasons: bool = False) -> Table:
    """Return a table of students, best first; time and parameters are over those of the teacher's encoder.

    Args:
        caption: Of the table.
        rows: The students.
        metric: The name of their recall.
        reasons: Whether to say why the pruner stopped a student.
    """
    shown: list[Row] = []
    for row in sorted(rows, key=lambda row: (-(row.recall or 0.0), row.trial)):
        place = "chosen" if row.taken else "on the front" if row.front else row.state
        ratios = (Cell(None if value is None else f"{value:.2f}×") for value in (row.latency, row.size))
        reason = [row.reason or ""] if reasons else []
        longer = {"embed_steps": row.embed_steps} if row.embed_steps else {}
        shown.append(
            [str(row.trial), figure(row.recall, "{:.4f}"), *ratios, place, *reason, settings({**row.params, **longer})]
        )
    columns = ["trial", metric, "time", "parameters", "state", *(["reason"] if reasons else []), "settings"]
    return Table(caption, columns, shown)


def varied_students(rows: Sequence[StudentRow]) -> list[StudentRow]:
    """Return the students with only those settings in which they differ."""

    def varied(params: Mapping[str, object]) -> dict[str, object]:
        return {name: value for name, value in params.items() if any(o.params.get(name) != value for o in rows)}

    return [row.model_copy(update={"params": varied(row.params)}) for row in rows]


def undertrained_sentences(rows: Sequence[StudentRow], metric: str, words: TaskWords) -> list[str]:
    """Return what says that the chosen student keeps too little, why, and what to do.

    Nothing where it keeps enough, or while it is trained again.
    """
    chosen = next((row for row in rows if row.taken), None)
    if chosen is None or (found := chosen.training) is None or not found.undertrained:
        return []
    longer = next((row.state for row in rows if row.extends == chosen.trial), None)
    if longer in ("waiting", "running"):
        return []
    lift = f"lift over {words.floor}, on validation {words.scene}s"
    kept = f"keeps {spelled(found.kept, '{:.0%}')} of the best teacher's {lift if found.measure == 'lift' else metric}"
    if found.gained.low > 0:
        kept += f", and still gained {spelled(found.gained, SIGNED)} recall beyond {found.first_step} steps"
    if longer == "complete":
        return [f"Student {chosen.trial} {kept}. Longer training was no better: give it more layers or width."]
    read = f"{plural(found.texts_read, 'text')}, of {found.texts:,} that it could read"
    return [
        f"Student {chosen.trial} was trained too little: it {kept}. Its steps read {read}: raise distill.embed_steps."
    ]


def _sentence(rows: Sequence[StudentRow], teacher: float, metric: str) -> str:
    chosen = next((row for row in rows if row.taken), None)
    students, longer = ([row for row in rows if (row.extends is not None) is longer] for longer in (False, True))
    pruned = sum(row.state == "pruned" for row in students)
    said = f"{plural(len(students), 'student')} were distilled, of which {pruned} stopped early."
    if longer:
        said += f" {plural(len(longer), 'longer training')} followed."
    if chosen is None or not chosen.recall:
        return said
    kept = f", {chosen.recall / teacher:.1%} of the best teacher's {metric}" if teacher else ""
    return (
        f"{said} Trial {chosen.trial} was chosen: {chosen.size:.2f}× the parameters and {chosen.latency:.2f}× the "
        f"time of the teacher's encoder{kept}."
    )
