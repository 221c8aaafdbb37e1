"""Axes to draw on without matplotlib's global state, and their SVG, which can stand in a page beside others.

Text stays text, in the page's own fonts; kinds of systems differ in colour, marker and line.
"""

from __future__ import annotations

import io
import unicodedata
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate
from typing import TYPE_CHECKING, Any, NamedTuple
from xml.dom import minidom

# matplotlib is imported where a figure is drawn: the terminal and the dashboard need none.
if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

GREY = "#595959"
SETTINGS: Any = {  # matplotlib's type for the keys is younger than the oldest version allowed
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.size": 8.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.edgecolor": GREY,
    "axes.linewidth": 0.7,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "legend.borderaxespad": 0.0,
    "legend.handlelength": 2.8,
}


class Style(NamedTuple):
    """Colour, marker and line of one kind of system."""

    color: str
    marker: str
    line: str


# Okabe and Ito's palette, which colour-blind readers can tell apart.
STYLES = {
    "baseline": Style("#000000", "s", ":"),
    "direct transfer": Style("#E69F00", "^", "--"),
    "teacher": Style("#0072B2", "o", "-"),
    "start of the search": Style("#CC79A7", "P", "--"),
    "student": Style("#D55E00", "D", "-."),
}
OTHER = Style("#009E73", "v", "-")
COMPLETE = Style("#0072B2", "o", "")
STOPPED = Style("#D55E00", "^", "")


def style(kind: str) -> Style:
    """Return the style of a kind of system."""
    return STYLES.get(kind, OTHER)


def marks(look: Style, hollow: bool = False, size: float = 5.5) -> dict[str, Any]:
    """Return a style's colour and marker as matplotlib's arguments."""
    face = "white" if hollow else look.color
    return {"color": look.color, "marker": look.marker, "markersize": size, "markerfacecolor": face}


@contextmanager
def sheet(name: str, size: tuple[float, float], margins: tuple[float, float, float, float]) -> Iterator[Axes]:
    """Yield empty axes with settings that nothing outside can change; draw and save before the block ends.

    Args:
        name: Of the drawing; it seeds the ids, so that equal drawings are equal files.
        size: Width and height in inches.
        margins: Left, right, bottom and top in inches.
    """
    # matplotlib takes a second to import; most commands draw nothing.
    import matplotlib
    from matplotlib.figure import Figure

    (width, height), (left, right, bottom, top) = size, margins
    with warnings.catch_warnings(), matplotlib.rc_context():
        # The browser has the glyphs that matplotlib's own font lacks.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(SETTINGS | {"svg.hashsalt": name})
        box = (left / width, bottom / height, 1 - (left + right) / width, 1 - (bottom + top) / height)
        yield Figure(figsize=size).add_axes(box)


def save(axes: Axes, name: str, label: str) -> str:
    """Return the axes' figure as an `svg` element.

    Args:
        axes: Of `sheet`.
        name: Unique on the page.
        label: What the drawing shows, for screen readers.
    """
    figure: Figure = axes.figure  # type: ignore[assignment]  # never a SubFigure here
    draft = io.StringIO()
    figure.savefig(draft, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    root = minidom.parseString(draft.getvalue()).documentElement
    assert root is not None
    for element in root.getElementsByTagName("*"):
        for key, value in list(element.attributes.items()):
            element.setAttribute(key, _own(key, value, name))
    for element in root.getElementsByTagName("use"):
        element.setAttribute("href", element.getAttribute("xlink:href"))
        element.removeAttribute("xlink:href")
    root.removeAttribute("xmlns:xlink")
    root.setAttribute("role", "img")
    root.setAttribute("aria-label", one_line(label))
    return str(root.toxml())


def one_line(text: str) -> str:
    """Return the text's printable letters on one line."""
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())


def shorten(text: str, columns: int) -> str:
    """Return one line of at most so many columns, of which wide letters take two."""
    text = one_line(text)
    ends = list(accumulate(1 + _is_wide(letter) for letter in text))
    if not ends or ends[-1] <= columns:
        return text
    return text[: sum(end < columns for end in ends)].rstrip() + "…"


def margin(labels: Sequence[str]) -> float:
    """Return the inches that labels need beside the axes: matplotlib cannot measure letters its own font lacks."""
    return 0.2 + max(sum(map(_inches, label)) for label in labels)


def _is_wide(letter: str) -> bool:
    return unicodedata.east_asian_width(letter) in "WF"


def _inches(letter: str) -> float:
    """Return an upper bound of a letter's width."""
    if _is_wide(letter):
        return 0.12
    return 0.084 if letter.isupper() else 0.071


def _own(key: str, value: str, name: str) -> str:
    """Return an attribute with ids that no other drawing has, and without a font of its own."""
    if key == "id":
        return f"{name}-{value}"
    if key == "xlink:href":
        return f"#{name}-{value[1:]}"
    if key == "style":
        value = "; ".join(part for part in value.split("; ") if not part.startswith("font-family"))
    return value.replace("url(#", f"url(#{name}-")
