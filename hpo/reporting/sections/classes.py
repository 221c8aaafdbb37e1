"""The section on classes: how far probabilities can be relied on, which classes are missed, and for which others."""

from __future__ import annotations

from collections.abc import Mapping

from hpo.reporting.blocks import Block, Cell, Row, Section, Table, Terms, Text, figure
from hpo.reporting.results import SIGNED, Results
from studies.evaluation.figures import PooledFigures

ABOUT = {
    "calibration error": "expected calibration error in 15 bins (Guo et al. 2017): by how much the probability of the "
    "predicted class differs from how often it is right; 0 is best.",
    "classified at an accuracy": "the largest share of the queries, the most confident ones, that is classified with "
    "at least this accuracy: what need not be looked at by a person.",
}


def classes(results: Results) -> Section | None:
    """Return the section; None where the task pools no predictions."""
    pooled = {name: found for name, system in results.systems.items() if (found := system.pooled) is not None}
    shown = [name for name in (results.student, results.teacher, results.reference) if name in pooled]
    if not shown:
        return None
    queries = sum(each.queries for each in pooled[shown[0]].classes.values())
    scene = results.words.scene
    intro = (
        f"Over all {queries:,} queries together, since one {scene} has few of each class. Which others a class is told "
        f"apart from differs from {scene} to {scene}."
    )
    blocks: list[Block] = [Text(intro), _reliance(pooled), Terms(list(ABOUT.items()))]
    tables = [_recalls(shown, pooled), _confusions(shown[0], pooled[shown[0]])]
    return Section("classes", "Class by class", [*blocks, *tables])


def _reliance(pooled: Mapping[str, PooledFigures]) -> Table:
    accuracies = sorted({accuracy for found in pooled.values() for accuracy in found.coverage})
    rows: list[Row] = [
        [name, figure(found.calibration_error), *(_share(found.coverage.get(accuracy)) for accuracy in accuracies)]
        for name, found in pooled.items()
    ]
    columns = ["system", "calibration error", *(f"classified at {accuracy:.0%}" for accuracy in accuracies)]
    return Table("How far probabilities can be relied on, over all queries", columns, rows)


def _share(value: float | None) -> Cell:
    return figure(value, "{:.0%}")


def _recalls(shown: list[str], pooled: Mapping[str, PooledFigures]) -> Table:
    """Return the recall of each class, the worst first, of the student or the best there is, and of the others."""
    first, *others = shown
    found = pooled[first].classes
    rows: list[Row] = []
    for label in sorted(found, key=lambda label: (found[label].recall, label)):
        mine = found[label].recall
        rest = [pooled[name].classes[label].recall for name in others]
        over = [figure(mine - rest[0], SIGNED)] if rest else []
        rows.append([label, Cell(f"{found[label].queries:,}"), *(figure(each) for each in (mine, *rest)), *over])
    difference = [f"{first} − {others[0]}"] if others else []
    return Table("Recall of each class, the worst first", ["class", "queries", *shown, *difference], rows)


def _confusions(name: str, found: PooledFigures) -> Table:
    rows: list[Row] = [
        [
            each.label,
            each.predicted,
            Cell(f"{each.queries:,}"),
            _share(each.queries / found.classes[each.label].queries),
        ]
        for each in found.confusions
    ]
    return Table(f"The most frequent confusions of: {name}", ["class", "predicted as", "queries", "of the class"], rows)
