"""What `hpo data check` prints: the data, the scenes and their parts, the leakage audit, notes and warnings."""

from __future__ import annotations

from collections.abc import Sequence

from hpo.data_check.figures import DataCheck
from hpo.reporting.blocks import Cell, Row, Table, Text
from hpo.reporting.renderers.terminal import print_blocks
from hpo.status.console import Console
from studies.config.protocol_section import SplitBy
from studies.episodes.audit import Finding

# How scenes are split, in words.
SPLIT: dict[SplitBy, str] = {
    "hash": "hash, time by protocol.timeline",
    "opening": "when they start, and time with them",
}
# Names of scenes in a line, and letters of a name: a line of an 80-column terminal.
NAMES, LETTERS = 3, 16


def print_check(found: DataCheck, console: Console) -> None:
    """Print what was found."""
    out = console.out
    print_blocks([_read_table(found)], console)
    if found.small_scenes:
        out.print()
        print_blocks(_small_scenes(found), console)
    print_bars("interactions per scene", [(row.low, row.high, row.scenes) for row in found.histogram], console)
    if found.parts:
        out.print()
        print_blocks([_parts_table(found), *_without_episodes(found), _without_history(found)], console)
    print_audit(found.audit, found.notes, found.warnings, console)


def print_bars(title: str, bins: Sequence[tuple[int, int, int]], console: Console) -> None:
    """Print a histogram: lower end, upper end (not included) and count of each bin."""
    if not bins:
        return
    console.out.print(f"\n{title}")
    most = max(count for _, _, count in bins)
    for low, high, count in bins:
        bar = "█" * round(40 * count / most) or ("▏" if count else "")
        console.out.print(f"  {low:>11,} to {high - 1:>11,}  {count:>6,}  {bar}", markup=False)


def print_audit(audit: Sequence[Finding], notes: Sequence[str], warnings: Sequence[str], console: Console) -> None:
    """Print what a check ends with: the leakage audit, notes and warnings."""
    if audit:
        console.out.print()
        rows: list[Row] = [[finding.check, finding.status, finding.detail] for finding in audit]
        print_blocks([Table("", ["leakage audit", "", "found"], rows)], console)
    for title, lines in (("notes", notes), ("warnings", warnings)):
        if lines:
            console.out.print(f"\n{title}")
            for line in lines:
                console.out.print(f"  {line}", markup=False, soft_wrap=True)


def _read_table(found: DataCheck) -> Table:
    rows = [["rows read", f"{found.rows_read:,}"]]
    rows += [[f"  dropped: {reason}", f"{count:,}"] for reason, count in found.dropped.items()]
    counts = {"interactions": found.interactions, "users": found.users, "items": found.items, "scenes": found.scenes}
    rows += [[name, f"{count:,}"] for name, count in counts.items()]
    rows.append(["sparsity", f"{found.sparsity:.2%}"])
    if quantiles := found.interactions_per_scene:
        rows.append(["interactions per scene", f"{quantiles[0]:,} to {quantiles[4]:,}, median {quantiles[2]:,}"])
    rows.append(["time", f"{found.first_day} to {found.last_day}"])
    return Table("", ["", ""], [[name, Cell(value)] for name, value in rows])


def _small_scenes(found: DataCheck) -> list[Text | Table]:
    """Return what the minima leave out, and the values of the same minima that would keep it."""
    minima = ", ".join(
        f"{name} = {minimum.value}{' (from the protocol)' if minimum.derived else ''}"
        for name, minimum in found.minima.items()
    )
    rows: list[Row] = []
    for group in found.small_scenes:
        values = (", ".join(map(str, kept.values())) or "none" for kept in (group.keeps_half, group.keeps_all))
        cells = (f"{group.scenes:,}", f"{group.rows:,}", *values)
        rows.append([group.short_of, *map(Cell, cells)])
    columns = ["too few", "scenes", "rows", "half kept from", "all kept from"]
    return [Text(f"{minima}; rows of scenes with fewer are kept from these values on:"), Table("", columns, rows)]


def _parts_table(found: DataCheck) -> Table:
    rows: list[Row] = []
    for name, part in found.parts.items():
        counts = (part.scenes, len(part.without_episodes), part.episodes, part.queries)
        cells = (Cell(f"{count:,}") for count in counts)
        rows.append([name, *cells, Cell(part.first_day), Cell(part.last_day)])
    columns = ["part", "scenes", "no episode", "episodes", "queries", "from", "until"]
    return Table("", columns, rows)


def _without_episodes(found: DataCheck) -> list[Text]:
    """Return how scenes were split, and the first of those without an episode."""
    lines = [] if found.split_by is None else [f"scenes are split by {SPLIT[found.split_by]}{_reason(found)}"]
    for name, part in found.parts.items():
        if names := part.without_episodes:
            more = f" and {len(names) - NAMES:,} more" if len(names) > NAMES else ""
            lines.append(f"no episode of {name}: {', '.join(map(shortened, names[:NAMES]))}{more}")
    return [Text(line) for line in lines]


def _without_history(found: DataCheck) -> Text:
    """Return how many queries of each part come from users of whom nothing is known."""
    counts = ", ".join(f"{part.without_history:,} of {part.queries:,} {name}" for name, part in found.parts.items())
    return Text(f"queries of users without a history: {counts}")


def _reason(found: DataCheck) -> str:
    if not found.split_by_auto:
        return ", as protocol.split_by says"
    return ", since most live for a short time" if found.split_by == "opening" else ""


def shortened(name: str) -> str:
    """Return a name, or its two ends: names of one kind often begin alike."""
    end = LETTERS // 2
    return name if len(name) <= LETTERS else f"{name[: LETTERS - end - 1]}…{name[-end:]}"
