"""Prints what a job found: how good, how large, how fast, what the search cost, and where the student is."""

from __future__ import annotations

from typing import Any

from rich.table import Table

from hpo.reporting.background import finalists_sentence, retention_sentence, search_sentence, spared_sentence
from hpo.reporting.blocks import settings
from hpo.reporting.results import POPULARITY, Results
from hpo.reporting.sections import verdicts
from hpo.status.console import Console


def print_result(result: dict[str, Any], console: Console) -> None:
    """The whole result of `job.run` on stdout."""
    evaluation = result["evaluation"]
    console.out.print(recall_table(evaluation))
    console.out.print()
    console.out.print(inference_table(evaluation["inference"]))
    console.out.print()
    if evaluation.get("students"):  # an older version's evaluation has none
        console.out.print(students_table(evaluation["students"], evaluation["k"]))
        console.out.print()
    found = result["search"]
    lines = [retention_sentence(evaluation["retention"]), search_sentence(found), spared_sentence(found)]
    if evaluation.get("finalists"):  # an older version's evaluation has none
        lines.append(finalists_sentence(evaluation["finalists"]))
    lines += [*verdicts(Results(evaluation)), f"student: {result['export']}", f"report: {result['report']}"]
    for line in lines:
        console.out.print(line, markup=False, soft_wrap=True)


def print_export_evaluation(result: dict[str, Any], console: Console) -> None:
    """What `hpo evaluate` found."""
    now, then = _interval(result["recall"], "{:.4f}"), _interval(result["recorded"], "{:.4f}")
    head = f"{result['study']}, {result['format']}: test recall@{result['k']} over {result['scenes']} scenes"
    console.out.print(head, markup=False)
    console.out.print(f"  now       {now}\n  manifest  {then}", markup=False)


def recall_table(evaluation: dict[str, Any]) -> Table:
    """Every system on a part's scenes; the report has the other metrics."""
    k, shots, scenes = evaluation["k"], evaluation["shots"], evaluation["scenes"]
    part = evaluation["part"].capitalize()
    table = Table(
        title=f"{part} recall@{k} after {shots} interactions, mean over {scenes} unseen scenes [95 % interval]",
        title_justify="left",
        box=None,
        padding=(0, 1),
    )
    table.add_column("system", no_wrap=True)
    for column in (f"recall@{k}", "over support popularity", "new items", f"nDCG@{k}", "MRR", "hit rate"):
        table.add_column(column, justify="right")
    for name, figures in sorted(evaluation["systems"].items(), key=lambda system: system[1]["recall"]["mean"]):
        table.add_row(
            name,
            _interval(figures["recall"], "{:.3f}"),
            "" if name == POPULARITY else _interval(figures["over_popularity"], "{:+.3f}"),
            *(_mean(figures[metric]) for metric in ("new_item_recall", "ndcg", "mrr", "hit_rate")),
        )
    return table


def inference_table(inference: dict[str, dict[str, float]]) -> Table:
    """Teacher and student side by side."""
    table = Table(title="Inference, measured here", title_justify="left", box=None, padding=(0, 1))
    table.add_column("")
    for column in ("parameters", "size", "texts/s"):
        table.add_column(column, justify="right")
    for name, figures in inference.items():
        table.add_row(
            name,
            f"{figures['parameters'] / 1e6:.1f} M",
            f"{figures['bytes'] / 1e6:.0f} MB",
            f"{figures['items_per_second']:.0f}",
        )
    teacher, student = inference["teacher"], inference["student"]
    table.add_row(
        "student / teacher",
        *(f"{student[key] / teacher[key]:.2f}×" for key in ("parameters", "bytes", "items_per_second")),
    )
    return table


def students_table(students: list[dict[str, Any]], k: int) -> Table:
    """The students of a distillation, best first; time and size are over those of the teacher's encoder.

    Only settings in which students differ are shown; the report has all.
    """
    table = Table(title="Students, on validation scenes", title_justify="left", box=None, padding=(0, 1))
    forms = {"recall": "{:.4f}", "latency": "{:.2f}×", "size": "{:.2f}×"}
    for column in ("trial", f"recall@{k}", "time", "parameters"):
        table.add_column(column, justify="right")
    for column in ("state", "settings"):
        table.add_column(column)
    for row in sorted(students, key=lambda row: (-(row["recall"] or 0.0), row["trial"])):
        mark = "taken" if row["taken"] else "on the front" if row["front"] else row["state"]
        figures = (_or_nothing(row[key], form) for key, form in forms.items())
        table.add_row(str(row["trial"]), *figures, mark, settings(_distinct(row["params"], students)))
    return table


def _distinct(params: dict[str, Any], students: list[dict[str, Any]]) -> dict[str, Any]:
    """The settings in which not all students are alike."""
    return {
        name: value for name, value in params.items() if any(other["params"].get(name) != value for other in students)
    }


def _or_nothing(value: float | None, form: str) -> str:
    return "" if value is None else form.format(value)


def _interval(interval: dict[str, float], form: str) -> str:
    return f"{form.format(interval['mean'])} [{form.format(interval['low'])}, {form.format(interval['high'])}]"


def _mean(interval: dict[str, float] | None) -> str:
    return "" if interval is None else f"{interval['mean']:.3f}"
