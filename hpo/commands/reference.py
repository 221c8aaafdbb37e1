"""The command reference, from the command line itself: `python -m hpo.commands.reference > docs/commands.md`."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from enum import Enum
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import typer

from hpo.cli import app

_HEAD = """# Commands

Written by `python -m hpo.commands.reference > docs/commands.md`; a test compares. `hpo VERB --help` says the same.

Results go to stdout, progress and errors to stderr. Exit codes: 0 ok, 1 failed, 2 usage, 130 interrupted.
`hpo --debug VERB …` shows the traceback of an error.
"""
_NUMBERS = {int: "N", float: "X", str: "TEXT"}


def verbs() -> dict[str, Any]:
    """Every verb's command by its words, such as `hpo data check`, in order of the names."""
    return dict(sorted(_verbs("hpo", typer.main.get_command(app))))


def _verbs(name: str, command: Any) -> Iterator[tuple[str, Any]]:
    inner = getattr(command, "commands", None)
    if inner is None:
        yield name, command
        return
    for word, each in inner.items():
        yield from _verbs(f"{name} {word}", each)


def description(command: Any) -> str:
    """What a verb does, as its help begins."""
    return str(command.help).partition("\n\n\b\n")[0]


def example(command: Any) -> list[str]:
    """The lines of a verb's example: a command, and what else there is to show."""
    lines = str(command.help).split("\n\n\b\n")[1:]
    return [line.removeprefix("Example: ") for line in lines]


def render() -> str:
    """The whole reference as Markdown."""
    found = verbs()
    index = [f"| [{name}](#{name.replace(' ', '-')}) | {_cell(description(each))} |" for name, each in found.items()]
    sections = [_section(name, command) for name, command in found.items()]
    return "\n".join([_HEAD, "| | |", "|---|---|", *index, "", *sections])


def _section(name: str, command: Any) -> str:
    hints = get_type_hints(inspect.unwrap(command.callback), include_extras=True)
    arguments = [option for option in command.params if not option.opts[0].startswith("-")]
    options = [option for option in command.params if option.opts[0].startswith("-")]
    usage = [name, *(str(argument.metavar) for argument in arguments)]
    usage += [_flag(option, hints) for option in options if option.required]
    usage += ["[OPTIONS]"] * any(not option.required for option in options)
    rows = [(str(argument.metavar), str(argument.help)) for argument in arguments]
    rows += [(_flag(option, hints), option.help + _default(option)) for option in options]
    table = (
        ["| | |", "|---|---|", *(f"| `{_cell(word)}` | {_cell(words)} |" for word, words in rows), ""] if rows else []
    )
    lines = [f"## {name}", "", description(command), "", f"    {' '.join(usage)}", "", *table]
    return "\n".join([*lines, "Example:", "", *(f"    {line}" for line in example(command)), ""])


def _flag(option: Any, hints: dict[str, Any]) -> str:
    """A flag with the word for its value: `--workers N`, `--engine local|ray`; `--wait / --no-wait`."""
    if option.is_flag:
        return " / ".join([*option.opts, *option.secondary_opts])
    return f"{option.opts[0]} {option.metavar or _word(hints[option.name])}"


def _word(hint: Any) -> str:
    if get_origin(hint) is Annotated:
        hint = get_args(hint)[0]
    kind = next(each for each in (*get_args(hint), hint) if each is not type(None))
    return "|".join(str(each.value) for each in kind) if issubclass(kind, Enum) else _NUMBERS[kind]


def _default(option: Any) -> str:
    if option.is_flag:
        return " By default on." if option.default else ""
    if option.required:
        return " Required."
    value = option.default.value if isinstance(option.default, Enum) else option.default
    return "" if value is None else f" By default {value}."


def _cell(text: str) -> str:
    # A bar ends a cell, even between backticks.
    return text.replace("|", "\\|")


if __name__ == "__main__":
    print(render(), end="")
