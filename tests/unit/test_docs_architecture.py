"""docs/architecture.md names every module there is, and none that is not."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")


def test_every_module_has_its_sentence_and_no_other_has() -> None:
    """A map without a new module, or with one that has gone, sends its reader astray."""
    modules = {
        str(path.relative_to(ROOT)).removesuffix("__init__.py")
        for package in ("hpo", "distill", "studies", "storage")
        for path in (ROOT / package).rglob("*.py")
    }
    rows = re.findall(r"^\| `([^`]+)` \| (.*) \|$", TEXT, re.MULTILINE)
    named = [name for name, _ in rows]
    assert sorted(named) == sorted(modules)
    assert all(sentence.endswith(".") for _, sentence in rows)


def test_every_file_that_the_recipes_name_exists_and_holds_what_they_name() -> None:
    """A recipe that names a moved file or a renamed table costs its reader the afternoon it should save."""
    recipes = TEXT[TEXT.index("## Adding to it") :]
    files = [name for name in re.findall(r"`([\w/]+\.py)`", recipes) if "NAME" not in name]
    assert [name for name in files if not (ROOT / name).is_file()] == []
    source = "".join((ROOT / name).read_text(encoding="utf-8") for name in files)
    words = re.findall(r"`([A-Za-z_]+)(?:\(\w*\))?`", recipes)
    assert [word for word in words if word not in source] == []
