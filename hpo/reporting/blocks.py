"""What a report is made of: sections of paragraphs, terms, tables, drawings and commands, for HTML and Markdown alike.

Everything here is plain text; each renderer escapes all of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

NOTHING = "–"
# A longer table scrolls in a box of its own on the screen; on paper it is whole.
LONG_TABLE = 15


@dataclass(frozen=True)
class Cell:
    """A figure in a table.

    Attributes:
        text: the figure itself.
        interval: its interval, or nothing.
        strong: whether to draw attention to it.
    """

    text: str
    interval: str = ""
    strong: bool = False


Row = Sequence[str | Cell]


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str
    kind: ClassVar[str] = "text"


@dataclass(frozen=True)
class Terms:
    """Words and what they mean, or facts by name."""

    pairs: Sequence[tuple[str, str]]
    kind: ClassVar[str] = "terms"


@dataclass(frozen=True)
class Items:
    """Sentences of equal rank."""

    sentences: Sequence[str]
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
        caption: what the table shows.
        columns: headings; the first column names the rows.
        rows: one cell per column: a string is words, a `Cell` a figure.
    """

    caption: str
    columns: Sequence[str]
    rows: Sequence[Row]
    kind: ClassVar[str] = "table"

    @property
    def words(self) -> list[bool]:
        """Per column, whether it holds words."""
        return [all(isinstance(row[column], str) for row in self.rows) for column in range(len(self.columns))]

    @property
    def long(self) -> bool:
        """Whether it should not be shown at full length on a screen."""
        return len(self.rows) > LONG_TABLE


@dataclass(frozen=True)
class Drawing:
    """A figure.

    Attributes:
        svg: the element, made by `hpo.reporting.figures`: safe as it is.
        caption: what it shows.
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
    """A heading and what stands under it.

    Attributes:
        anchor: the name that links use.
        title: the heading.
        blocks: the contents, in order.
        wide: whether it needs paper in landscape.
    """

    anchor: str
    title: str
    blocks: Sequence[Block]
    wide: bool = False


@dataclass(frozen=True)
class Report:
    """The whole page.

    Attributes:
        title: what is reported on.
        written: when, and by which version.
        verdicts: the answer, in a sentence or two.
        measured: what the answer rests on.
        sections: everything else.
    """

    title: str
    written: str
    verdicts: Sequence[str]
    measured: str
    sections: Sequence[Section]


def cell(interval: Mapping[str, float] | None, form: str = "{:.3f}", strong: bool = False) -> Cell:
    """A mean with its interval; a dash where it is not defined."""
    if interval is None:
        return Cell(NOTHING)
    return Cell(form.format(interval["mean"]), limits(interval, form), strong)


def figure(value: Any, form: str = "{:.3f}") -> Cell:
    """A single figure; a dash where it is not defined."""
    return Cell(NOTHING if value is None else form.format(value))


def limits(interval: Mapping[str, float], form: str) -> str:
    """The two ends of an interval."""
    return f"[{form.format(interval['low'])}, {form.format(interval['high'])}]"


def spelled(interval: Mapping[str, float], form: str = "{:.3f}") -> str:
    """A mean with its interval, within a sentence."""
    return f"{form.format(interval['mean'])} {limits(interval, form)}"


def settings(params: Mapping[str, Any]) -> str:
    """Hyperparameters on one line."""
    return ", ".join(
        f"{name} = {value:.4g}" if isinstance(value, float) else f"{name} = {value}" for name, value in params.items()
    )


def plural(count: int, word: str) -> str:
    """1 scene, 24 scenes."""
    return f"{count:,} {word}" if count == 1 else f"{count:,} {word}s"
