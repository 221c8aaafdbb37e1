"""Writes a study's report: one HTML page that needs nothing else, the same in Markdown, and the figures as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from hpo.reporting import markdown
from hpo.reporting.blocks import Report
from hpo.reporting.sections import report
from storage.files.atomic import atomic_write


def write(document: Mapping[str, Any], folder: Path) -> list[Path]:
    """Writes report.html, report.md and report.json, each whole or not at all, over those of an older report.

    Args:
        document: the study's figures, as plain JSON. What is not defined is null; NaN is taken for that.
        folder: where to; made when it is missing.

    Returns:
        The three files.
    """
    plain = _defined(document)
    content = report(plain)
    files = {
        "report.html": render(content),
        "report.md": markdown.render(content),
        "report.json": json.dumps(plain, indent=2, ensure_ascii=False, allow_nan=False) + "\n",
    }
    for name, text in files.items():
        atomic_write(folder / name, text.encode())
    return [folder / name for name in files]


def html(document: Mapping[str, Any]) -> str:
    """The page alone; see `write`."""
    return render(report(_defined(document)))


def render(content: Report) -> str:
    """The report as one HTML page: no script, no request."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.j2").render(report=content)


def _defined(value: Any) -> Any:
    """The same JSON with null for what is not a number, and for an interval that has no mean or no end."""
    if isinstance(value, Mapping):
        plain = {str(key): _defined(item) for key, item in value.items()}
        return None if plain.keys() == {"mean", "low", "high"} and None in plain.values() else plain
    if isinstance(value, list | tuple):
        return [_defined(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
