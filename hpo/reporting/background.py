"""Sections on what the figures rest on: the search, what inference costs, the data, the protocol, the commands."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

from hpo.reporting import figures
from hpo.reporting.blocks import (
    NOTHING,
    Block,
    Cell,
    Commands,
    Drawing,
    Drawings,
    Row,
    Section,
    Table,
    Terms,
    Text,
    figure,
    plural,
    settings,
)
from hpo.status.console import duration

Figures = Mapping[str, Any]
# What is measured of an encoder: title, unit, form.
INFERENCE = {
    "parameters": ("parameters, millions", 1e6, "{:.1f}"),
    "bytes": ("size, MB", 1e6, "{:.0f}"),
    "items_per_second": ("texts/s", 1, "{:.0f}"),
}
# Longest search that is still drawn in these units.
UNITS = (("seconds", 1, 300), ("minutes", 60, 3 * 3600), ("hours", 3600, float("inf")))


def search(document: Figures) -> Section | None:
    """What was tried, what it cost and what it reached."""
    found = document.get("search")
    if not found or not found.get("history"):
        return None
    evaluation = document["evaluation"]
    axis = f"validation recall@{evaluation['k']}"
    blocks: list[Block] = [Text(search_sentence(found)), Text(spared_sentence(found))]
    blocks += [*_progress(found["history"], axis), _trial_table(found["history"], axis)]
    blocks += _finalists(evaluation.get("finalists"), axis)
    teachers: list[Row] = [
        [str(teacher["trial"]), figure(teacher["validation_recall"], "{:.4f}"), settings(teacher["params"])]
        for teacher in evaluation.get("teachers") or []
    ]
    if teachers:
        blocks.append(Table("The teachers: its best trials", ["trial", axis, "parameters"], teachers))
    return Section("search", "The search", blocks)


def search_sentence(found: Figures) -> str:
    """How many trials ran, at what cost, and what pruning saved."""
    cost, full = found["cost_seconds"], found["unpruned_seconds"]
    states = ", ".join(f"{count} {state}" for state, count in sorted(found["states"].items()))
    saved = f"{1 - cost / full:.0%}" if full else "0%"
    return (
        f"The search ran {plural(found['trials'], 'trial')} ({states}) in {duration(cost)} of training and evaluation; "
        f"unpruned it would have taken about {duration(full)}: pruning saved {saved}."
    )


def spared_sentence(found: Figures) -> str:
    """What the bracket that no rank stops says of the pruning."""
    kept, lost, best = found["control_group"], found["false_prunes"], found["best"]
    if not kept:
        return "No trial was kept to the end against its rank, so nothing here says whether pruning lost a good one."
    would = ", ".join(f"trial {number}" for number in lost) if lost else "none"
    return (
        f"{plural(len(kept), 'trial')} went to the end although the rank would have stopped it, to measure what "
        f"pruning loses: {would} ended among the best {best}."
    )


def finalists_sentence(found: Figures) -> str:
    """Which of the best trials leads when they are looked at again, and how much of its recall was luck."""
    first, searched = found["ranked"][0], max(found["ranked"], key=lambda each: (each["searched"], -each["trial"]))
    again = f"{plural(found['draws'], 'other draw')} of supports and queries"
    led = "still leads" if first["trial"] == searched["trial"] else f"no longer leads, trial {first['trial']} does"
    return (
        f"Looked at again on {again}, the search's best, trial {searched['trial']}, {led}; "
        f"{found['optimism']:+.4f} of its lead over support popularity came from having been chosen."
    )


def _finalists(found: Figures | None, axis: str) -> list[Block]:
    if not found:
        return []
    rows: list[Row] = [
        [str(each["trial"]), *(figure(each[key], "{:.4f}") for key in ("searched", "redrawn", "recall"))]
        for each in found["ranked"]
    ]
    heads = ["trial", "in the search", "on the other draws", "over all, chosen by"]
    return [Text(finalists_sentence(found)), Table(f"The finalists, {axis}", heads, rows)]


def inference(document: Figures) -> Section | None:
    """What teacher and student cost, and how much of the teacher is left."""
    measured = document["evaluation"].get("inference")
    if not measured:
        return None
    rows: list[Row] = [
        [name, *(_scaled(encoder.get(key), unit, form) for key, (_, unit, form) in INFERENCE.items())]
        for name, encoder in measured.items()
    ]
    teacher, student = measured.get("teacher"), measured.get("student")
    if teacher and student:
        rows.append(["student / teacher", *(_ratio(student.get(key), teacher.get(key)) for key in INFERENCE)])
    table = Table("Inference, measured where the job ran", ["", *(title for title, _, _ in INFERENCE.values())], rows)
    retention = document["evaluation"].get("retention")
    sentence = [Text(retention_sentence(retention))] if retention else []
    return Section("inference", "What inference costs", [*sentence, table])


def retention_sentence(retention: Figures) -> str:
    """How much of the best teacher the student keeps."""
    recall, lift = retention["recall"], retention["lift"]
    if recall is None:
        return "The teacher has no recall to keep."
    bounds = retention.get("intervals") or {}  # an older version's evaluation has none

    def share(value: float, name: str, form: str) -> str:
        found = bounds.get(name)
        around = f" [{found['low']:{form}}, {found['high']:{form}}]" if found else ""
        return f"{value:{form}}{around}"

    kept = "the teacher has no lift to keep"
    if lift is not None:
        kept = f"{share(lift, 'lift', '.0%')} of its lift over {retention['baseline']}"
    return f"The student keeps {share(recall, 'recall', '.1%')} of the best teacher's recall; {kept}."


def facts(document: Figures) -> Section:
    """The data and how they were cut."""
    data = document["data"]
    pairs = [
        ("source", str(data["source"])),
        ("size", f"{data['interactions']:,} interactions of {plural(data['users'], 'user')} with "
                 f"{plural(data['items'], 'item')} in {plural(data['scenes'], 'scene')}"),
        ("time", f"{data['from']} to {data['until']}"),
        ("fingerprint", str(data["fingerprint"])),
    ]  # fmt: skip
    rows = [[name, _setting(value)] for name, value in document["protocol"].items()]
    protocol = Table("The protocol, as the study file sets it", ["setting", "value"], rows)
    return Section("facts", "Data and protocol", [Terms(pairs), protocol])


def reproduction(document: Figures) -> Section:
    """The commands that give these figures again."""
    verb = "baselines" if document.get("baselines_only") else "run"
    lines = [f"hpo {verb} STUDY.toml"]
    if document.get("export"):
        lines.append(f"hpo evaluate {shlex.quote(str(document['export']))}")
    text = (
        f"With scenetune {document['version']}, the study file of {document['study']} and data of the same "
        f"fingerprint. report.json, beside this page, holds every figure on it."
    )
    return Section("reproduce", "How to reproduce this", [Text(text), Commands(lines)])


def _progress(history: Sequence[Figures], axis: str) -> list[Block]:
    """The trials in order against what they cost together; nothing if none got as far as a recall."""
    costs = list(accumulate(trial.get("cost_seconds") or 0.0 for trial in history))
    unit, seconds = next((unit, seconds) for unit, seconds, longest in UNITS if costs[-1] <= longest)
    trials = [
        figures.Trial(cost / seconds, recall, trial["state"] == "complete")
        for trial, cost in zip(history, costs, strict=True)
        if (recall := _reached(trial)) is not None
    ]
    if not trials:
        return []
    label = f"{axis} of {plural(len(trials), 'trial')} against the cost so far"
    caption = (
        "Trials in the order of their numbers, each at the cost of all up to and with it: work, not waiting, so that "
        "several workers do not make it shorter. A pruned trial is at the recall it had when it was stopped."
    )
    return [Drawings([Drawing(figures.history(trials, unit, axis, label), caption)])]


def _trial_table(history: Sequence[Figures], axis: str) -> Table:
    rows: list[Row] = []
    for trial in history:
        params = dict(trial.get("params") or {})
        learner = str(params.pop("learner", NOTHING))
        cost = trial.get("cost_seconds")
        figures_of_trial = [figure(_reached(trial), "{:.4f}"), Cell(NOTHING if cost is None else duration(cost))]
        words = [trial["state"], trial.get("reason") or "", learner, settings(params)]
        rows.append([str(trial["trial"]), *figures_of_trial, *words])
    return Table("All trials", ["trial", axis, "cost", "state", "reason", "learner", "parameters"], rows)


def _reached(trial: Figures) -> float | None:
    """A trial's recall: its own, or that of its last rung."""
    if trial.get("recall") is not None:
        return float(trial["recall"])
    recalls = [rung["recall"] for rung in trial.get("rungs") or [] if rung["recall"] is not None]
    return float(recalls[-1]) if recalls else None


def _scaled(value: float | None, unit: float, form: str) -> Cell:
    return figure(None if value is None else value / unit, form)


def _ratio(student: float | None, teacher: float | None) -> Cell:
    return Cell(f"{student / teacher:.2f}×") if student is not None and teacher else Cell(NOTHING)


def _setting(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
