"""The registry of learners: read without torch, and in agreement with the classes it names."""

import subprocess
import sys
from pathlib import Path

import pytest

from studies.learners.base import Learner
from studies.learners.registry import LEARNERS

FOLDER = Path(__file__).parents[2] / "studies" / "learners"


def test_the_registry_is_read_without_torch() -> None:
    """A study file with a typing error would take seconds of importing to be refused."""
    code = "import sys, studies.learners.registry, studies.config.spec; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("name", LEARNERS)
def test_an_entry_names_the_class_that_names_the_entry(name: str) -> None:
    """An entry that leads to another learner's class would train it under this name."""
    entry = LEARNERS[name]
    kind = entry.load()
    assert entry.name == name
    assert issubclass(kind, Learner)
    assert kind.entry is entry


@pytest.mark.parametrize("name", LEARNERS)
def test_a_learners_file_cites_the_papers_of_its_entry(name: str) -> None:
    """A citation in two places that disagree is worse than none."""
    entry = LEARNERS[name]
    text = (FOLDER / f"{entry.implementation.split(':')[0].rsplit('.', 1)[1]}.py").read_text(encoding="utf-8")
    for paper in entry.paper.split("; "):
        authors, year = paper.rsplit(" ", 1)
        assert authors.split()[0] in text
        assert year in text


def test_every_learners_file_has_an_entry() -> None:
    """A learner without one can be neither searched nor reported."""
    files = {path.stem for path in FOLDER.glob("*.py")} - {"__init__", "base", "inner_loop", "registry"}
    assert files == {entry.implementation.split(":")[0].rsplit(".", 1)[1] for entry in LEARNERS.values()}
