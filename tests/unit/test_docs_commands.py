"""The command line and what is written about it: help, examples, the reference, and every command in the documents."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from hpo.cli import app
from hpo.commands.reference import example, render, verbs

ROOT = Path(__file__).parents[2]
VERBS = verbs()
# The reference is written from the command line itself.
DOCUMENTS = [path for path in sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]) if path.name != "commands.md"]
# Words that stand before `hpo` in a command: settings, the shell's own, a way into a container.
BEFORE = re.compile(r"^(?:\w+=\S* |export |exec )*$")


def parse(words: list[str]) -> None:
    """Reads a command's words as `hpo` would, without running it; a usage error says what is wrong."""
    command: Any = typer.main.get_command(app)
    assert words[0] == "hpo"
    for number, word in enumerate(words[1:], 1):
        inner = getattr(command, "commands", None)
        if inner is None:
            command.make_context(" ".join(words[:number]), words[number:])
            return
        assert word in inner, f"there is no {' '.join(words[: number + 1])}"
        command = inner[word]
    command.make_context(" ".join(words), [])


def commands(text: str) -> Iterator[list[str]]:
    """The words of every `hpo` command in a document's blocks of code."""
    fenced = False
    for line in text.splitlines():
        if line.lstrip().startswith("```"):
            fenced = not fenced
        before, found, after = line.strip().partition("hpo ")
        if found and (fenced or line.startswith("    ")) and BEFORE.match(before):
            yield shlex.split(found + after, comments=True)


def test_every_verb_explains_itself_with_an_example() -> None:
    """A verb without an example sends its user to the source."""
    shown = {name: CliRunner().invoke(app, [*name.split()[1:], "--help"]) for name in VERBS}
    assert [name for name, help in shown.items() if help.exit_code != 0 or "Example: " not in help.stdout] == []
    assert [name for name, verb in VERBS.items() if name not in example(verb)[0]] == []


def test_what_an_option_takes_has_a_name() -> None:
    """TEXT says nothing of what is wanted: a URL, a folder, a list?"""
    unnamed = {}
    for name in VERBS:
        shown = CliRunner().invoke(app, [*name.split()[1:], "--help"], terminal_width=200).stdout
        unnamed[name] = re.findall(r"--\w+ (?:TEXT|PATH|FLOAT|<str>|<path>|<float.*?>)", shown)
    assert {name: found for name, found in unnamed.items() if found} == {}


def test_every_example_is_a_command_that_the_command_line_takes(subtests: pytest.Subtests) -> None:
    """An example with a flag that has gone, or without one that is required, is the first thing a user types."""
    for verb in VERBS.values():
        line = example(verb)[0]
        # `optuna studies --storage "$(hpo db url)"` and `HPO_HOME=other hpo db restore` hold their command inside.
        inside = re.search(r"\$\((hpo [^)]*)\)", line)
        with subtests.test(msg=line):
            parse(shlex.split(inside[1] if inside else line[line.index("hpo ") :]))


def test_every_command_in_the_documents_is_one_that_the_command_line_takes(subtests: pytest.Subtests) -> None:
    """A renamed flag would live on in the documents."""
    for path in DOCUMENTS:
        for words in commands(path.read_text(encoding="utf-8")):
            with subtests.test(msg=f"{path.name}: {shlex.join(words)}"):
                parse(words)


def test_a_command_that_cannot_be_is_noticed() -> None:
    """A check that takes anything is no check."""
    for words in ("hpo run", "hpo run a.toml --no-such-flag", "hpo worker x --of none"):
        with pytest.raises(Exception, match=r"(?i)missing|no such|valid integer"):
            parse(words.split())
    with pytest.raises(AssertionError, match="there is no hpo nonsense"):
        parse(["hpo", "nonsense"])
    assert list(commands("text hpo run\n\n    A=b hpo run x  # why\n\n```sh\nhpo db up\n```\n")) == [
        ["hpo", "run", "x"],
        ["hpo", "db", "up"],
    ]


def test_the_reference_is_what_the_command_line_says() -> None:
    """A reference that has drifted is worse than none."""
    written = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
    assert written == render(), "run: python -m hpo.commands.reference > docs/commands.md"
