"""The report's drawings, each an SVG element made from figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hpo.reporting.svg import COMPLETE, GREY, STOPPED, margin, marks, save, sheet, shorten, style
from studies.evaluation.intervals import Interval

# For type checkers alone: matplotlib is imported where a figure is drawn (`svg.py`).
if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTH = 6.6
PANEL = (3.3, 2.9)
LABEL = 30


@dataclass(frozen=True)
class Mark:
    """One system's interval in the forest plot."""

    label: str
    kind: str
    interval: Interval


@dataclass(frozen=True)
class Line:
    """One system's intervals by number of shots.

    Attributes:
        label: Its name in the legend.
        kind: Its kind, which gives the style.
        points: Intervals by K.
        hollow: Whether another line of its kind has the filled markers.
    """

    label: str
    kind: str
    points: Mapping[int, Interval]
    hollow: bool = False


@dataclass(frozen=True)
class Trial:
    """One trial of the search: the cost of all trials up to and with it, and its recall."""

    cost: float
    recall: float
    complete: bool


@dataclass(frozen=True)
class Student:
    """One student.

    Attributes:
        latency: Time of its encoder over the teacher's.
        recall: On validation scenes.
        size: Parameters of its encoder over the teacher's.
        front: Whether no other student is better.
        chosen: Whether it is exported.
    """

    latency: float
    recall: float
    size: float
    front: bool
    chosen: bool


def forest(systems: Sequence[Mark], reference: float | None, axis: str, label: str) -> str:
    """Draw intervals below each other, best first, with a line at the reference."""
    names = [shorten(system.label, LABEL) for system in systems]
    with sheet("forest", (WIDTH, 0.65 + 0.27 * len(names)), (margin(names), 0.15, 0.5, 0.1)) as axes:
        if reference is not None:
            axes.axvline(reference, color=GREY, linewidth=0.9, linestyle=(0, (4, 3)))
        for row, system in enumerate(systems):
            axes.errorbar(
                system.interval.mean, row, xerr=_reach([system.interval]), capsize=2.5, **marks(style(system.kind))
            )
        _rows(axes, names)
        axes.set_xlabel(axis)
        return save(axes, "forest", label)


def shots(lines: Sequence[Line], axis: str, across: str, label: str) -> str:
    """Draw recall against the number of shots, which `across` names."""
    with sheet("shots", (WIDTH, 3.6), (0.6, 0.15, 0.5, 0.2 + 0.18 * ((len(lines) + 1) // 2))) as axes:
        _lines(axes, lines, axis, across)
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1.02), ncols=2)
        return save(axes, "shots", label)


def panel(name: str, lines: Sequence[Line], axis: str, across: str, limits: tuple[float, float], label: str) -> str:
    """Draw recall against the number of shots, small, with limits that the panels share."""
    with sheet(name, PANEL, (0.5, 0.1, 0.45, 0.15 + 0.17 * ((len(lines) + 1) // 2))) as axes:
        _lines(axes, lines, axis, across)
        axes.set_ylim(*limits)
        axes.legend(loc="lower left", bbox_to_anchor=(-0.14, 1.02), ncols=2, fontsize=8, columnspacing=1)
        return save(axes, name, label)


def scenes(
    names: Sequence[str], systems: Mapping[str, tuple[str, Sequence[float | None]]], axis: str, label: str
) -> str:
    """Draw one row per scene, first on top, with a marker per system and a line that joins them.

    Args:
        names: Of the scenes.
        systems: Kind and recalls, in the order of the names, by the system's name in the legend.
        axis: What is measured.
        label: What the drawing shows, for screen readers.
    """
    short = [shorten(name, LABEL) for name in names]
    with sheet("scenes", (WIDTH, 1.0 + 0.17 * len(names)), (margin(short), 0.15, 0.5, 0.4)) as axes:
        for row, recalls in enumerate(zip(*(recalls for _, recalls in systems.values()), strict=True)):
            known = [recall for recall in recalls if recall is not None]
            axes.plot([min(known), max(known)], [row, row], color="#bbbbbb", linewidth=1.5, zorder=1)
        for name, (kind, values) in systems.items():
            points = [(value, row) for row, value in enumerate(values) if value is not None]
            look = marks(style(kind), hollow=kind == "baseline", size=4.5)
            axes.plot(*zip(*points, strict=True), linestyle="none", label=shorten(name, LABEL), **look)
        _rows(axes, short)
        axes.set_xlabel(axis)
        axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=3, columnspacing=1.2, handlelength=1)
        return save(axes, "scenes", label)


def history(trials: Sequence[Trial], unit: str, axis: str, label: str) -> str:
    """Draw recall of trials against the cost of the search so far, and the best complete trial so far."""
    with sheet("history", (WIDTH, 3.2), (0.6, 0.15, 0.5, 0.35)) as axes:
        for complete, name, look in ((True, "complete", COMPLETE), (False, "pruned or failed", STOPPED)):
            points = [(trial.cost, trial.recall) for trial in trials if trial.complete == complete]
            if points:
                axes.plot(*zip(*points, strict=True), linestyle="none", label=name, **marks(look, not complete))
        best = _incumbents(trials)
        if best:
            axes.step(*zip(*best, strict=True), where="post", color=GREY, linewidth=1.2, label="best so far", zorder=1)
        axes.set_xlim(left=0)
        axes.set_xlabel(f"training and evaluation so far, {unit}")
        axes.set_ylabel(axis)
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1.02), ncols=3)
        return save(axes, "history", label)


def front(students: Sequence[Student], teacher: float | None, axis: str, label: str) -> str:
    """Draw recall against latency, areas by size, the front joined, with the teacher."""
    with sheet("front", (WIDTH, 3.2), (0.75, 0.15, 0.5, 0.35)) as axes:
        best = sorted((s for s in students if s.front), key=lambda s: s.latency)
        axes.plot(
            [s.latency for s in best], [s.recall for s in best], color=GREY, linewidth=1.2, label="front", zorder=1
        )
        for chosen, name, look in ((False, "student", style("student")), (True, "the one chosen", COMPLETE)):
            some = [s for s in students if s.chosen == chosen]
            places = ([s.latency for s in some], [s.recall for s in some])
            axes.scatter(*places, s=[200 * s.size for s in some], color=look.color, marker=look.marker, label=name)
        if teacher is not None:
            axes.plot([1], [teacher], linestyle="none", label="best teacher", **marks(style("teacher"), hollow=True))
        axes.set_xlim(left=0)
        axes.set_xlabel("time to encode a text, over the teacher's")
        axes.set_ylabel(axis)
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1.02), ncols=4)
        return save(axes, "front", label)


def _incumbents(trials: Sequence[Trial]) -> list[tuple[float, float]]:
    """Return the best recall of complete trials, wherever it rises, and where the search ends."""
    best: list[tuple[float, float]] = []
    for trial in trials:
        if trial.complete and (not best or trial.recall > best[-1][1]):
            best.append((trial.cost, trial.recall))
    return [*best, (trials[-1].cost, best[-1][1])] if best else []


def _lines(axes: Axes, lines: Sequence[Line], axis: str, across: str) -> None:
    """Draw lines over evenly spaced K, moved apart a little so that no interval hides another."""
    steps = sorted({k for line in lines for k in line.points})
    for number, line in enumerate(lines):
        offset = 0.07 * (number - (len(lines) - 1) / 2)
        places = [steps.index(k) + offset for k in sorted(line.points)]
        intervals = [line.points[k] for k in sorted(line.points)]
        axes.errorbar(
            places,
            [interval.mean for interval in intervals],
            yerr=_reach(intervals),
            label=shorten(line.label, LABEL),
            linestyle=style(line.kind).line,
            linewidth=1.3,
            elinewidth=0.9,
            capsize=2,
            **marks(style(line.kind), line.hollow),
        )
    axes.set_xticks(range(len(steps)), [str(k) for k in steps])
    axes.set_xlim(-0.4, len(steps) - 0.6)
    axes.set_xlabel(across)
    axes.set_ylabel(axis)


def _rows(axes: Axes, names: Sequence[str]) -> None:
    """Write names down the left side, the first on top."""
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", visible=False)


def _reach(intervals: Sequence[Interval]) -> Any:
    """Return (2, points): how far intervals reach below and above their means."""
    below = [max(0.0, interval.mean - interval.low) for interval in intervals]
    above = [max(0.0, interval.high - interval.mean) for interval in intervals]
    return [below, above]
