"""Links between the documents lead somewhere."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])


def anchors(path: Path) -> set[str]:
    """The anchors that a page's headings get."""
    headings = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def leads_nowhere(path: Path, link: str) -> bool:
    """Return whether a page's link names a file, or a heading of it, that there is not."""
    file, _, anchor = link.partition("#")
    target = path.parent / file if file else path
    return not target.exists() or (anchor != "" and anchor not in anchors(target))


def test_every_relative_link_leads_to_a_file_and_a_heading_of_it() -> None:
    """A renamed document or heading would leave links to nowhere."""
    links = [
        (path, link)
        for path in DOCUMENTS
        for link in re.findall(r"\]\(([^)\s]+)\)", path.read_text(encoding="utf-8"))
        if "://" not in link
    ]
    assert links
    assert [f"{path.name}: {link}" for path, link in links if leads_nowhere(path, link)] == []
