"""Sections on shots: recall by how much a scene has shown, and from where on adapting to it pays."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from distill.evaluation import StudyEvaluation, TransferGroup
from hpo.reporting import drawings
from hpo.reporting.blocks import Block, Drawing, Drawings, Items, Row, Section, Table, Text, cell, plural, spelled
from hpo.reporting.results import SIGNED, Results
from studies.evaluation.figures import ByShots
from studies.evaluation.intervals import Interval

Shots = dict[int, Interval]


def curve(results: Results) -> Section | None:
    """Return the section with recall against the number of shots."""
    covered = results.evaluation.curve
    points = {name: _known(system.by_shots) for name, system in results.systems.items()}
    points = {name: shots for name, shots in points.items() if shots}
    if not points:
        return None
    lines = _lines(results, points)
    words, of_lines = results.words, ", ".join(line.label for line in lines)
    label = f"{results.recall} against {words.shots} in the support, of {of_lines}"
    caption = (
        f"Means over the {plural(covered.scenes, words.scene)} that can be scored at every K shown, with 95 % "
        f"intervals: the best system of each kind, and {results.reference}. The table has all."
    )
    left_out = [f"K = {gap.shots} is left out: {gap.reason}" for gap in covered.left_out]
    ks = sorted({k for shots in points.values() for k in shots})
    rows: list[Row] = [[name, *(cell(shots.get(k)) for k in ks)] for name, shots in points.items()]
    blocks: list[Block] = [
        Drawings([Drawing(drawings.shots(lines, results.recall, f"{words.shots} in the support (K)", label), caption)])
    ]
    if left_out:
        blocks.append(Items(left_out))
    caption = f"{results.recall} after K {words.shots}"
    blocks.append(Table(caption, ["system", *(f"K = {k}" for k in ks)], rows))
    return Section("shots", f"Recall by number of {words.shots}", blocks)


def transfer(results: Results) -> Section | None:
    """Return the section on what adapting is worth in each group of scenes, and from which K on."""
    if not isinstance(results.evaluation, StudyEvaluation) or not (groups := results.evaluation.transfer):
        return None
    intro = (
        "Direct transfer ranks a new scene with what was learned elsewhere, without adapting to its interactions. "
        "Adapting is said to pay only where the interval of the difference, paired by scene, lies above zero: few "
        "scenes in a group make that hard to show."
    )
    sentences = [sentence for group in groups for sentence in _sentences(results, group)]
    blocks: list[Block] = [Text(intro), Items(sentences), Drawings(_panels(results, groups))]
    return Section("transfer", "Direct transfer or adapt?", [*blocks, _group_table(results, groups)])


def _known(by_shots: ByShots) -> Shots:
    """Return intervals by K, rising, without those that are not defined."""
    return {k: interval for k, interval in sorted(by_shots.items()) if interval is not None}


def _lines(results: Results, points: Mapping[str, Shots]) -> list[drawings.Line]:
    """Return the lines of the best system of each kind, and of those that everything is compared with."""
    best: dict[str, str] = {}
    for name in points:
        best.setdefault(results.kind(name), name)
    chosen = [name for name in points if name in {*best.values(), results.reference, results.teacher, results.direct}]
    return [
        drawings.Line(name, results.kind(name), points[name], hollow=best[results.kind(name)] != name)
        for name in chosen
    ]


def _sentences(results: Results, group: TransferGroup) -> Iterator[str]:
    """Yield what each way of adapting is worth in a group of scenes."""
    for name, by_shots in group.gains.items():
        what = "adapting" if name == results.teacher else name
        where = f"By {group.grouping}, {group.group} ({plural(group.scenes, 'scene')})"
        yield f"{where}: {_worth(what, _known(by_shots))}."


def _worth(what: str, gains: Shots) -> str:
    """Return from which K adapting pays, as far as the intervals of the paired differences say."""
    ks = list(gains)
    if not ks:
        return f"{what} was not measured beside direct transfer"
    pays = [k for k in ks if gains[k].low > 0]
    harms = [k for k in ks if gains[k].high < 0]
    worth = f"{what} gives no clear gain at any K up to {ks[-1]}"
    if pays:
        first = pays[0]
        rest = ks[ks.index(first) :]
        when = f"from K = {first} on" if pays == rest else f"at K = {_listed(pays)} and not clearly elsewhere"
        worth = f"{what} pays {when} ({spelled(gains[first], SIGNED)} at K = {first})"
    return f"{worth}; it harms at K = {_listed(harms)}" if harms else worth


def _panels(results: Results, groups: Sequence[TransferGroup]) -> list[Drawing]:
    """Return one small drawing per group, all with the same scale."""
    lines = {number: _panel_lines(results, group) for number, group in enumerate(groups)}
    intervals = [interval for drawn in lines.values() for line in drawn for interval in line.points.values()]
    low, high = min(i.low for i in intervals), max(i.high for i in intervals)
    room = 0.05 * (high - low) or 0.05
    limits, across = (low - room, high + room), f"{results.words.shots} in the support"
    panels = []
    for number, group in enumerate(groups):
        caption = f"{group.grouping}: {group.group}, {plural(group.scenes, 'scene')}"
        label = f"{results.recall} against {across}; {caption}"
        svg = drawings.panel(f"group{number}", lines[number], results.recall, f"{across} (K)", limits, label)
        panels.append(Drawing(svg, caption))
    return panels


def _panel_lines(results: Results, group: TransferGroup) -> list[drawings.Line]:
    """Return the lines of a group's systems."""
    parts = {results.direct: "not adapted", results.teacher: "adapted"}
    points = {name: _known(by_shots) for name, by_shots in group.systems.items()}
    return [drawings.Line(parts.get(n, n), results.kind(n), shots) for n, shots in points.items() if shots]


def _group_table(results: Results, groups: Sequence[TransferGroup]) -> Table:
    by_group = [
        (f"{group.grouping}: {group.group}", name, _known(by_shots))
        for group in groups
        for name, by_shots in group.systems.items()
    ]
    ks = sorted({k for _, _, shots in by_group for k in shots})
    rows: list[Row] = [[group, name, *(cell(shots.get(k)) for k in ks)] for group, name, shots in by_group]
    return Table(
        f"{results.recall} after K {results.words.shots}", ["group", "system", *(f"K = {k}" for k in ks)], rows
    )


def _listed(ks: Sequence[int]) -> str:
    return ", ".join(map(str, ks))
