"""The plots of a study's page, as plotly's JSON: optuna-dashboard brings the plotly that draws them.

They are stored with the study and read by every poll of the page, so each is small whatever the study's size.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np

from distill.evaluation import StudentRow
from hpo.dashboard.note import behind
from hpo.dashboard.study_facts import StudyFacts
from hpo.reporting.task_words import words_for
from studies.escaping import visible
from studies.learners.registry import LEARNERS

# Okabe and Ito's palette, which colour-blind readers can tell apart; learners take them in the registry's order.
PALETTE = ("#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#56b4e9", "#999999", "#f0e442", "#000000")
GREY = "#555555"
POINTS, TOP, SCENES = 400, 5, 60


@dataclass(frozen=True)
class Figure:
    """A plotly figure without plotly: https://plotly.com/chart-studio-help/json-chart-schema.

    Attributes:
        data: Its traces.
        layout: Its axes and title.
    """

    data: Sequence[dict[str, Any]]
    layout: dict[str, Any]

    def to_json(self) -> str:
        """Return its JSON, as `optuna_dashboard.save_plotly_graph_object` asks for it."""
        return json.dumps({"data": self.data, "layout": self.layout}, separators=(",", ":"))


def of_search(facts: StudyFacts) -> dict[str, Figure]:
    """Return the plots of a search by the id that they are stored under; none while no trial has finished."""
    if not facts.ranked:
        return {}
    figures = {
        "recall-against-cost": _cost(facts),
        "learners": _learners(facts),
    }
    if words_for(facts.spec.task, facts.spec.protocol.kind).named:
        figures["scenes"] = _scenes(facts)
    if facts.importance:
        figures["importance"] = _importance(facts)
    return figures


def of_distillation(facts: StudyFacts) -> dict[str, Figure]:
    """Return the plot of a distillation; none while no student has finished."""
    rows = [row for row in facts.students if row.state == "complete" and row.latency is not None]
    return {"front": _front(facts, rows)} if rows else {}


def _cost(facts: StudyFacts) -> Figure:
    """Plot recall of finished trials against the cost of the search so far, thinned evenly, and the best so far."""
    points = [(reached.spent / 60, reached.recall, view) for view, reached in facts.ranked]
    points.sort(key=lambda point: point[0])
    best: list[tuple[float, float]] = []
    for cost, recall, _ in points:
        if not best or recall > best[-1][1]:
            best.append((cost, recall))
    shown = points[:: -(-len(points) // POINTS)]
    traces = []
    for learner in LEARNERS:
        if some := [point for point in shown if point[2].learner == learner]:
            traces.append(_dots(learner, [p[0] for p in some], [p[1] for p in some], [f"#{p[2].number}" for p in some]))
    steps = [*best, (points[-1][0], best[-1][1])]
    line = {"color": GREY, "shape": "hv"}
    traces.append(
        {"type": "scatter", "mode": "lines", "name": "best so far", "line": line}
        | {"x": [round(step[0], 3) for step in steps], "y": [round(step[1], 4) for step in steps]}
    )
    title = "Recall of finished trials against cost"
    if len(shown) < len(points):
        title += f" ({len(shown)} of {len(points)} shown)"
    return Figure(traces, _layout(title, "minutes of training and evaluation so far", facts.metric))


def _color(learner: str) -> str:
    return PALETTE[list(LEARNERS).index(learner) % len(PALETTE)]


def _dots(name: str, x: Sequence[float], y: Sequence[float], text: Sequence[str]) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "markers",
        "name": name,
        "x": [round(value, 3) for value in x],
        "y": [round(value, 4) for value in y],
        "text": list(text),
        "marker": {"color": _color(name)},
    }


def _learners(facts: StudyFacts) -> Figure:
    """Plot quartiles of each learner's finished trials, and its best one with its difference to the best of all."""
    traces: list[dict[str, Any]] = []
    best: dict[str, list[Any]] = {"x": [], "y": [], "text": []}
    for learner in LEARNERS:
        some = [(view, reached) for view, reached in facts.ranked if view.learner == learner]
        if not some:
            continue
        low, first, median, third, high = np.quantile([reached.recall for _, reached in some], [0, 0.25, 0.5, 0.75, 1])
        quartiles = {"q1": first, "median": median, "q3": third, "lowerfence": low, "upperfence": high}
        view, reached = some[0]
        apart = behind(reached, facts.ranked[0][1]).replace(" [", "<br>[").replace(", within", ",<br>within")
        name = f"{learner} ({len(some)})<br>{apart or 'the best'}"
        box = {"type": "box", "name": name, "x": [name], "showlegend": False, "marker": {"color": _color(learner)}}
        traces.append(box | {key: [round(float(value), 4)] for key, value in quartiles.items()})
        best["x"].append(name)
        best["y"].append(round(reached.recall, 4))
        best["text"].append(f"#{view.number}")
    marker = {"color": GREY, "symbol": "diamond", "size": 9}
    traces.append({"type": "scatter", "mode": "markers", "name": "its best trial", "marker": marker} | best)
    scene = words_for(facts.spec.task, facts.spec.protocol.kind).scene
    under = f"finished trials; its best less the best of all [95 % over {scene}s]"
    layout = _layout("Finished trials by learner", under, facts.metric)
    layout["xaxis"]["title"]["standoff"] = 20
    return Figure(traces, layout | {"legend": {"orientation": "h", "y": 1.12}})


def _scenes(facts: StudyFacts) -> Figure:
    """Plot recall of the best trials scene by scene, hardest first; of many scenes some, spread evenly."""
    top = [(view, reached) for view, reached in facts.ranked[:TOP] if reached.scenes]
    names = sorted({name for _, reached in top for name in reached.scenes})

    def mean(name: str) -> float:
        return float(np.mean([reached.scenes[name] for _, reached in top if name in reached.scenes]))

    names.sort(key=mean)
    shown = names[:: -(-len(names) // SCENES)] if names else []
    heat = {
        "type": "heatmap",
        "colorscale": "Viridis",
        # Plotly obeys some tags.
        "x": [escape(visible(name), quote=False) for name in shown],
        "y": [f"#{view.number} {view.learner}" for view, _ in top],
        "z": [[_rounded(reached.scenes.get(name)) for name in shown] for _, reached in top],
    }
    layout = _layout(f"{facts.metric} of the best trials by validation scene", "", "")
    # A scene may be called 7, or like a date.
    axes = {"xaxis": {"type": "category", "automargin": True}, "yaxis": {"autorange": "reversed", "automargin": True}}
    return Figure([heat], layout | axes)


def _importance(facts: StudyFacts) -> Figure:
    found = facts.importance
    assert found is not None
    names = list(found.shares)[::-1]
    bars = {
        "type": "bar",
        "orientation": "h",
        "x": [round(found.shares[name], 3) for name in names],
        "y": names,
        "marker": {"color": PALETTE[0]},
    }
    layout = _layout(f"What matters, by PED-ANOVA over {found.trials} trials at {found.step} updates", "importance", "")
    return Figure([bars], layout)


def _front(facts: StudyFacts, rows: Sequence[StudentRow]) -> Figure:
    """Plot students' recall against their time, areas by size, the front joined."""
    front = sorted((row for row in rows if row.front), key=lambda row: row.latency or 0.0)
    traces: list[dict[str, Any]] = [
        {"type": "scatter", "mode": "lines", "name": "front", "line": {"color": GREY}}
        | {"x": [row.latency for row in front], "y": [_rounded(row.recall) for row in front]}
    ]
    for chosen, name, color in ((False, "student", "#0072b2"), (True, "the one chosen", "#d55e00")):
        if some := [row for row in rows if row.taken == chosen]:
            sizes = [round(12 + 20 * (row.size or 0.0), 1) for row in some]
            traces.append(
                {"type": "scatter", "mode": "markers", "name": name, "marker": {"color": color, "size": sizes}}
                | {"x": [row.latency for row in some], "y": [_rounded(row.recall) for row in some]}
                | {"text": [f"#{row.trial}, {row.size:.2f}× the parameters" for row in some]}
            )
    title = "Students: recall against time, marks by number of parameters"
    return Figure(traces, _layout(title, "time to encode a text, over the teacher's", facts.metric))


def _layout(title: str, x: str, y: str) -> dict[str, Any]:
    axes = {"xaxis": {"title": {"text": x}, "automargin": True}, "yaxis": {"title": {"text": y}, "automargin": True}}
    return {"title": {"text": title}, "legend": {"orientation": "h", "y": -0.25}} | axes


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
