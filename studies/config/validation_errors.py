"""Explains pydantic's validation errors in the terms of the study file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from studies.config.search_domains import nearest, show
from studies.config.search_section import SearchSection

# The accepted kind of value for each of pydantic's error types.
_ACCEPTED = {
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
    """Return one line on the first problem: its place, the value, and what is accepted.

    Args:
        error: The error that validating `root` raised.
        root: The model of a whole study file.
    """
    problems = error.errors(include_url=False)
    # An unknown key is most often the cause of the rest (a misspelt required key is also "missing").
    first = next((p for p in problems if p["type"] == "extra_forbidden"), problems[0])
    return _explain_problem(first, problems, root)


def _explain_problem(problem: ErrorDetails, problems: Sequence[ErrorDetails], root: type[BaseModel]) -> str:
    keys = _all_keys(root)
    place, kind = _place(problem, keys), problem["type"]
    if kind == "extra_forbidden":
        key = str(problem["loc"][-1])
        table = ".".join(str(key) for key in problem["loc"][:-1] if key in keys)
        where = f"in [{table}]" if table else "at the top level"
        return f"unknown key {key!r} {where}{nearest(key, _keys_of(problem['loc'][:-1], root))}"
    if kind == "union_tag_invalid":
        context = problem["ctx"]
        return f"data.source: takes {context['expected_tags']}, got {context['tag']!r}"
    if kind == "union_tag_not_found":
        named = " or ".join(f'"{name}"' for name in _sources(root))
        return f'data.source is required: {named}; source = "files" reads your own, as docs/data.md shows'
    if kind == "missing":
        return _explain_missing(place, [_place(p, keys) for p in problems if p["type"] == "missing"], problem, root)
    if kind == "value_error":
        return f"{place}: {problem['ctx']['error']}" if place else str(problem["ctx"]["error"])
    if kind in _ACCEPTED:
        # A union has one problem per member: together they list what is accepted.
        same_place = [p["type"] for p in problems if _place(p, keys) == place]
        accepted = {_ACCEPTED[kind] for kind in same_place if kind in _ACCEPTED}
        accepted -= {"a whole number"} if accepted & {"a number", "a finite number"} else set()
        return f"{place}: takes {' or '.join(sorted(accepted))}, got {show(problem['input'])}"
    message = problem["msg"].removeprefix("Input ").replace(" after validation", "")
    return f"{place}: {message[0].lower()}{message[1:]}, got {show(problem['input'])}"


def _explain_missing(place: str, missing: Sequence[str], problem: ErrorDetails, root: type[BaseModel]) -> str:
    """Return which required keys are missing, with an example of each that its source has one for."""
    of_source = len(problem["loc"]) == 3 and place.startswith("data.")
    source = _sources(root).get(str(problem["loc"][1])) if of_source else None
    if source is None:
        page = "docs/data.md" if place.startswith("data") else "studies/quickstart.toml"
        return f"{place} is required; see {page} for an example"
    known: Mapping[str, str] = getattr(source, "examples", {})
    keys = [key for key in known if f"data.{key}" in missing] or [place.removeprefix("data.")]
    names, verb = ", ".join(f"data.{key}" for key in keys), "is" if len(keys) == 1 else "are"
    examples = ", ".join(f"{key} = {known[key]}" for key in keys if key in known)
    return f"{names} {verb} required{f', such as {examples}' if examples else ''}; see docs/data.md"


def _place(problem: ErrorDetails, keys: set[str]) -> str:
    # Names of union members are pydantic's, not the user's.
    return ".".join(str(key) for key in problem["loc"] if key in keys or isinstance(key, int))


def _keys_of(place: Sequence[int | str], root: type[BaseModel]) -> list[str]:
    """Return the keys of the table at a location of pydantic's."""
    models, sources = [root], _sources(root)
    for key in place:
        if key in sources:
            models = [sources[str(key)]]
        elif found := [m for model in models for m in _models_of(model, str(key))]:
            models = found
    return list(dict.fromkeys(name for model in models for name in model.model_fields))


def _sources(root: type[BaseModel]) -> dict[str, type[BaseModel]]:
    """Return the models that `[data]` may be, by the value of `data.source`."""
    models = _models_of(root, "data")
    return {name: model for model in models for name in get_args(model.model_fields["source"].annotation)}


def _models_of(model: type[BaseModel], key: str) -> list[type[BaseModel]]:
    """Return the models of the tables that a key takes, within unions, lists and dicts."""
    if key not in model.model_fields:
        return []
    found, kinds = [], [model.model_fields[key].annotation]
    while kinds:
        kind = kinds.pop()
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            found.append(kind)
        kinds += get_args(kind)
    return found


def _all_keys(root: type[BaseModel]) -> set[str]:
    keys, models = set[str](), [root]
    while models:
        model = models.pop()
        keys |= set(model.model_fields)
        if issubclass(model, SearchSection):
            keys |= set(model.parameters())
        models += [found for key in model.model_fields for found in _models_of(model, key)]
    return keys
