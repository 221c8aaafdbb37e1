"""The reference of the study file: every key, with the default that it has and a meaning."""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import BaseModel

from hpo.commands.study_file import Table, accepted, meanings, render, tables
from studies.classification.spec import ClassificationSpec
from studies.config.ranking_spec import RankingSpec
from studies.config.spec import parse_spec
from studies.data.source import Source

PAGE = (Path(__file__).parents[2] / "docs" / "study-file.md").read_text(encoding="utf-8")
REQUIRED = {
    "name": "shop",
    "data": {"source": "files", "interactions": "log.csv", "scene": "category", "text": "title"},
}


def models(kind: Any) -> Iterator[type[BaseModel]]:
    """All models that a study file is validated with, but for the ranges of a search space."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        yield kind
        for field in kind.model_fields.values():
            yield from models(field.annotation)
    elif "Range" not in str(kind):
        for inner in get_args(kind):
            yield from models(inner)


def rows() -> Iterator[tuple[str, list[str]]]:
    """Heading and cells of each row of the page."""
    heading = ""
    for line in PAGE.splitlines():
        heading = line.removeprefix("## ") if line.startswith("## ") else heading
        if line.startswith("| `"):
            yield heading, [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def test_the_reference_is_what_the_models_say() -> None:
    """A reference that has drifted is worse than none."""
    assert render() == PAGE, "run: python -m hpo.commands.study_file > docs/study-file.md"


def test_every_key_of_every_model_is_in_the_reference_and_has_a_meaning() -> None:
    """A key that no page has is found by reading the source; a name alone explains nothing."""
    found = {cells[0].strip("`") for _, cells in rows()}
    every = {*models(RankingSpec), *models(ClassificationSpec)}
    assert Source.model_fields.keys() < {key for model in every for key in model.model_fields}
    # A table of the file is a heading of the page, whose rows are its keys.
    tables_of_file = RankingSpec.model_fields.keys() - {"name", "task"}
    assert {key for model in every for key in model.model_fields} - found == tables_of_file
    assert {f"[{key}]" for key in tables_of_file} < {heading for heading, _ in rows()}
    assert [cells[0] for _, cells in rows() if not cells[3].endswith(".")] == []
    assert {model: gone for model in every if (gone := meanings(model).keys() - model.model_fields.keys())} == {}


def test_a_key_without_a_meaning_is_noticed() -> None:
    """The line of another class, or of none, must not stand in for it."""

    class Base(BaseModel):
        """A base.

        Attributes:
            first: One, which is described
                on two lines: as such.
        """

        first: int = 1

    class Derived(Base):
        """No attributes here."""

        second: int = 2

    assert meanings(Derived) == {"first": "One, which is described on two lines: as such."}


def test_a_study_of_all_the_written_defaults_is_the_study_of_none(tmp_path: Path) -> None:
    """A default that differs from the written one sends a user after the wrong cause."""
    lines: dict[str, list[str]] = {}
    for heading, (key, _, default, _) in rows():
        if ", task =" in heading or heading in ("Above the tables", '[data] with source = "completejourney"'):
            continue
        table = heading.split(" with source")[0]
        if default.startswith("`"):
            lines.setdefault(table, []).append(f"{key.strip('`')} = {default.strip('`')}")
        else:
            assert default in ("required", "none", "")
    written = tomllib.loads("\n".join(line for table, own in lines.items() for line in (table, *own)))
    required = dict(REQUIRED["data"])  # type: ignore[call-overload]
    whole = {**written, "name": "shop", "data": written["data"] | required}
    assert sum(map(len, lines.values())) > 60
    # The one table that does something by being there.
    empty = {**REQUIRED, "teacher": {"adapt": {}}}
    assert parse_spec(whole, folder=tmp_path) == parse_spec(empty, folder=tmp_path)


@pytest.mark.parametrize(
    ("key", "takes"),
    [
        ("teacher.max_tokens", "whole number at least 4, at most 512"),
        ("protocol.split", "3 numbers above 0, below 1"),
        ("pruner.rungs", "list of whole numbers above 0"),
        ("search.cost_minutes", "number above 0"),
        ("teacher.compile", "`true` or `false`"),
        ("distill.objectives", 'list of `"recall"`, `"latency"`, `"size"`'),
    ],
)
def test_what_a_key_takes_is_in_words(key: str, takes: str) -> None:
    """`Annotated[int, Ge(4)]` is no help to whom the file is for."""
    section, name = key.split(".")
    field = RankingSpec.model_fields[section].annotation.model_fields[name]  # type: ignore[union-attr]
    assert accepted(field.annotation, field.metadata) == takes


def test_the_tables_are_in_the_order_of_a_study_file() -> None:
    """Data come first, as in every study file of ours."""
    found: list[Table] = tables()
    assert [table.heading for table in found][:2] == ["Above the tables", "[data]"]
