"""Writes a study's report: one HTML page that needs nothing else, the same in Markdown, and the figures as JSON."""

from __future__ import annotations

import json
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from hpo.reporting.blocks import NOTHING, Report
from hpo.reporting.document import StudyDocument
from hpo.reporting.renderers import markdown
from hpo.reporting.sections.report import report
from storage.files.atomic import atomic_files
from studies.escaping import visible

PAGE = "report.html"

REPORT_JSON = "report.json"


def write(document: StudyDocument, folder: Path) -> list[Path]:
    """Write report.html, report.md and report.json over those of an older report: all of them, or none.

    Args:
        document: What the report says.
        folder: Where to; made when it is missing.

    Returns:
        The three files.

    Raises:
        ArtifactsUnavailable: They cannot be written, as on a full disk.
    """
    content = report(document)
    files = {
        PAGE: render(content),
        "report.md": markdown.render(content),
        REPORT_JSON: json.dumps(document.to_json(), indent=2, ensure_ascii=False, allow_nan=False) + "\n",
    }
    atomic_files(folder, {name: text.encode() for name, text in files.items()})
    return [folder / name for name in files]


def html(document: StudyDocument) -> str:
    """Return the page alone; see `write`."""
    return render(report(document))


def render(content: Report) -> str:
    """Return the report as one HTML page: no script, no request."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        # Drawings are markup, and safe as they are.
        finalize=lambda value: visible(value) if type(value) is str else value,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.j2").render(report=content, nothing=NOTHING)
