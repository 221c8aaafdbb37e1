"""Says in a study file's own words what pydantic found wrong with it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from studies.config.search_domains import DEFAULT_SPACE, nearest
from studies.data.sources import SOURCES

# What pydantic's kinds of mismatch mean in a study file's own words.
_WANTED = {
    "model_type": "a table",
    "dict_type": "a table",
    "list_type": "a list",
    "tuple_type": "a list",
    "float_type": "a number",
    "finite_number": "a finite number",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "string_type": "a string",
    "bool_type": "true or false",
}


def explain(error: ValidationError, root: type[BaseModel]) -> str:
    """One line on the first thing that is wrong: the place, what stands there, what is accepted.

    Args:
        error: what `root` raised.
        root: the model of a whole study file.
    """
    problems = error.errors(include_url=False)
    # An unknown key is most often the cause of the rest (a misspelt required key is also "missing").
    first = next((p for p in problems if p["type"] == "extra_forbidden"), problems[0])
    return _say(first, problems, root)


def _say(problem: ErrorDetails, problems: Sequence[ErrorDetails], root: type[BaseModel]) -> str:
    keys = _all_keys(root)
    place, kind = _place(problem, keys), problem["type"]
    if kind == "extra_forbidden":
        key = str(problem["loc"][-1])
        table = ".".join(str(part) for part in problem["loc"][:-1] if part in keys)
        where = f"in [{table}]" if table else "at the top level"
        return f"unknown key {key!r} {where}{nearest(key, _keys_of(problem['loc'][:-1], root))}"
    if kind == "union_tag_invalid":
        context = problem["ctx"]
        return f"data.source: takes {context['expected_tags']}, got {context['tag']!r}"
    if kind == "union_tag_not_found":
        return f"data.source is required: one of {', '.join(SOURCES)}; see studies/quickstart.toml for an example"
    if kind == "missing":
        return f"{place} is required; see studies/quickstart.toml for an example"
    if kind == "value_error":
        return f"{place}: {problem['ctx']['error']}" if place else str(problem["ctx"]["error"])
    if kind in _WANTED:
        # A union gives one problem per member: together they say what is accepted.
        wanted = {_WANTED[p["type"]] for p in problems if _place(p, keys) == place and p["type"] in _WANTED}
        wanted -= {"a whole number"} if wanted & {"a number", "a finite number"} else set()
        return f"{place}: takes {' or '.join(sorted(wanted))}, got {show(problem['input'])}"
    message = problem["msg"].removeprefix("Input ").replace(" after validation", "")
    return f"{place}: {message[0].lower()}{message[1:]}, got {show(problem['input'])}"


def _place(problem: ErrorDetails, keys: set[str]) -> str:
    # Names of union members are pydantic's own, not the user's: leave them out.
    return ".".join(str(part) for part in problem["loc"] if part in keys or isinstance(part, int))


def _keys_of(place: Sequence[int | str], root: type[BaseModel]) -> list[str]:
    """The keys that the table at a place of pydantic's takes."""
    models: list[type[BaseModel]] = [root]
    for part in place:
        if part in SOURCES:
            models = [SOURCES[str(part)]]
        elif found := [m for model in models for m in _models_of(model, str(part))]:
            models = found
    return list(dict.fromkeys(key for model in models for key in model.model_fields))


def _models_of(model: type[BaseModel], key: str) -> list[type[BaseModel]]:
    """The tables that a key may hold, inside whatever union, list or table."""
    if key not in model.model_fields:
        return []
    found, kinds = [], [model.model_fields[key].annotation]
    while kinds:
        kind = kinds.pop()
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            found.append(kind)
        kinds += get_args(kind)
    return found


def show(value: Any) -> str:
    """A value as a study file would have it, nearly."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k} = {v}" for k, v in value.items()) + "}"
    return repr(value)


def _all_keys(root: type[BaseModel]) -> set[str]:
    keys, models = set(DEFAULT_SPACE), [root]
    while models:
        model = models.pop()
        keys |= set(model.model_fields)
        models += [found for key in model.model_fields for found in _models_of(model, key)]
    return keys
