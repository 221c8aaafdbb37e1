"""What `hpo data check` prints of labelled texts: the data, the classes and their parts, the audit, the warnings."""

from __future__ import annotations

from hpo.data_check.figures import LabelledCheck
from hpo.reporting.blocks import Cell, Row, Table, Text
from hpo.reporting.renderers.terminal import print_blocks
from hpo.reporting.sections.data_check import NAMES, print_audit, print_bars, shortened
from hpo.status.console import Console

# Most classes whose rows are counted by scene, and most scenes that are listed.
FEW, SCENES = 4, 40


def print_check(found: LabelledCheck, console: Console) -> None:
    """Print what was found."""
    print_blocks([_read_table(found)], console)
    print_bars("rows per class", [(row.low, row.high, row.classes) for row in found.histogram], console)
    if found.parts:
        console.out.print()
        print_blocks([_parts_table(found), *_without_episodes(found)], console)
    if found.by_scene:
        print_blocks([_scenes_table(found)], console)
    print_audit(found.audit, found.notes, found.warnings, console)


def _read_table(found: LabelledCheck) -> Table:
    rows = [["rows read", f"{found.rows_read:,}"]]
    rows += [[f"  dropped: {reason}", f"{count:,}"] for reason, count in found.dropped.items()]
    counts = {
        "texts": found.texts,
        "labelled rows": found.labelled,
        "unlabelled rows": found.unlabelled,
        "classes": found.classes,
        **({"groups": found.groups} if found.groups else {}),
        **({"scenes": found.scenes} if found.scenes else {}),
    }
    rows += [[name, f"{count:,}"] for name, count in counts.items()]
    if quantiles := found.rows_per_class:
        rows.append(["rows per class", f"{quantiles[0]:,} to {quantiles[4]:,}, median {quantiles[2]:,}"])
        largest = ", ".join(f"{shortened(name)} ({count:,})" for name, count in list(found.largest.items())[:2])
        rows.append(["largest", largest])
    return Table("", ["", ""], [[name, Cell(value)] for name, value in rows])


def _parts_table(found: LabelledCheck) -> Table:
    rows: list[Row] = []
    for name, part in found.parts.items():
        counts = (part.classes, len(part.without_episodes), part.rows, part.episodes, part.queries)
        rows.append([name, *(Cell(f"{count:,}") for count in counts)])
    return Table("", ["part", "classes", "no episode", "rows", "episodes", "queries"], rows)


def _scenes_table(found: LabelledCheck) -> Table:
    """Return the classes by scene: the rows of each where they are few, else how many have any."""
    labels = list(found.by_scene[0].rows)
    few = len(labels) <= FEW
    rows: list[Row] = []
    for each in found.by_scene[:SCENES]:
        counts = list(each.rows.values()) if few else [sum(each.rows.values()), sum(map(bool, each.rows.values()))]
        said = "" if each.episode else "no episode"
        rows.append([shortened(each.scene), each.part, *(Cell(f"{count:,}") for count in counts), said])
    if (more := len(found.by_scene) - SCENES) > 0:
        rows.append([f"and {more:,} more", "", *([""] * (len(rows[0]) - 2))])
    return Table("", ["scene", "part", *(map(shortened, labels) if few else ["rows", "classes"]), ""], rows)


def _without_episodes(found: LabelledCheck) -> list[Text]:
    lines = []
    for name, part in found.parts.items():
        if names := part.without_episodes:
            more = f" and {len(names) - NAMES:,} more" if len(names) > NAMES else ""
            lines.append(f"no episode of {name}: {', '.join(map(shortened, names[:NAMES]))}{more}")
    return [Text(line) for line in lines]
