"""What reports, the dashboard's note and the terminal's output are made of: paragraphs, lists, tables, drawings.

Everything here is plain text; each renderer in `hpo/reporting/renderers/` escapes all of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from studies.evaluation.intervals import Interval

# Shown in the place of a figure that is not defined.
NOTHING = "–"
# On the screen a longer table scrolls in a box of its own.
LONG_TABLE = 15


@dataclass(frozen=True)
class Link:
    """Text that leads to an address."""

    text: str
    address: str


@dataclass(frozen=True)
class Code:
    """Text that is shown letter by letter, as paths and digests are."""

    text: str


# A run of text: plain, or with links and code in it.
Words = str | tuple[str | Link | Code, ...]


@dataclass(frozen=True)
class Cell:
    """A figure in a table.

    Attributes:
        text: The figure itself; None where it is not defined.
        interval: Its interval, or "".
        strong: Whether to draw attention to it.
    """

    text: str | None
    interval: str = ""
    strong: bool = False


Row = Sequence[str | Cell]


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: Words
    kind: ClassVar[str] = "text"


@dataclass(frozen=True)
class Terms:
    """Words and what they mean, or values by name."""

    pairs: Sequence[tuple[str, str]]
    kind: ClassVar[str] = "terms"


@dataclass(frozen=True)
class Items:
    """A list of sentences."""

    sentences: Sequence[Words]
    kind: ClassVar[str] = "items"


@dataclass(frozen=True)
class Commands:
    """Lines for a shell."""

    lines: Sequence[str]
    kind: ClassVar[str] = "commands"


@dataclass(frozen=True)
class Table:
    """Rows under a caption.

    Attributes:
        caption: What the table shows; "" where the heading above it says so.
        columns: Headings; the first column names the rows.
        rows: One cell per column: a string is words, a `Cell` a figure.
    """

    caption: str
    columns: Sequence[str]
    rows: Sequence[Row]
    kind: ClassVar[str] = "table"

    @property
    def words(self) -> list[bool]:
        """Return, per column, whether it holds words."""
        return [all(isinstance(row[column], str) for row in self.rows) for column in range(len(self.columns))]

    @property
    def long(self) -> bool:
        """Return whether a screen should not show it at full length."""
        return len(self.rows) > LONG_TABLE


@dataclass(frozen=True)
class Drawing:
    """A figure.

    Attributes:
        svg: The element, made by `hpo.reporting.drawings`: safe as it is.
        caption: What it shows.
    """

    svg: str
    caption: str


@dataclass(frozen=True)
class Drawings:
    """Figures: one at full width, or several side by side."""

    drawings: Sequence[Drawing]
    kind: ClassVar[str] = "drawings"


Block = Text | Terms | Items | Commands | Table | Drawings


@dataclass(frozen=True)
class Section:
    """A heading and the blocks under it.

    Attributes:
        anchor: The name that links use.
        title: The heading.
        blocks: The contents, in order.
        wide: Whether it needs paper in landscape.
    """

    anchor: str
    title: Words
    blocks: Sequence[Block]
    wide: bool = False


@dataclass(frozen=True)
class Report:
    """The whole page.

    Attributes:
        title: What is reported on.
        written: When, and by which version.
        verdicts: The answer, in a sentence or two.
        measured: What the answer rests on.
        sections: Everything else.
    """

    title: str
    written: str
    verdicts: Sequence[str]
    measured: str
    sections: Sequence[Section]


def cell(interval: Interval | None, form: str = "{:.3f}", strong: bool = False) -> Cell:
    """Return a mean with its interval."""
    return Cell(None) if interval is None else Cell(form.format(interval.mean), limits(interval, form), strong)


def figure(value: float | None, form: str = "{:.3f}") -> Cell:
    """Return a single figure."""
    return Cell(None if value is None else form.format(value))


def limits(interval: Interval, form: str) -> str:
    """Return the two ends of an interval."""
    return f"[{form.format(interval.low)}, {form.format(interval.high)}]"


def spelled(interval: Interval, form: str = "{:.3f}") -> str:
    """Return a mean with its interval, for a sentence."""
    return f"{form.format(interval.mean)} {limits(interval, form)}"


def settings(params: Mapping[str, object]) -> str:
    """Return hyperparameters on one line."""
    return ", ".join(
        f"{name} = {value:.4g}" if isinstance(value, float) else f"{name} = {value}" for name, value in params.items()
    )


def plural(count: int, word: str) -> str:
    """Return "1 scene" or "24 scenes"."""
    return f"{count:,} {word}" if count == 1 else f"{count:,} {word}s"
