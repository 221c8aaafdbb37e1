"""What a search space is made of: domains, and what a parameter may be at all."""

from __future__ import annotations

import difflib
import itertools
import math
from collections.abc import Collection, Iterable, Mapping
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict, model_validator


class Section(BaseModel):
    """A table of the study file: unknown keys are refused, values are never coerced between kinds."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Range(Section):
    """A numeric range to search: whole numbers when both ends are whole, otherwise real."""

    low: int | float
    high: int | float
    log: bool = False

    @model_validator(mode="after")
    def _ordered(self) -> Range:
        if self.low > self.high:
            raise ValueError(f"low = {self.low} is above high = {self.high}; swap them")
        if self.log and self.low <= 0:
            raise ValueError(f"a log range must start above 0, got low = {self.low}")
        return self

    @property
    def whole(self) -> bool:
        """Whether the range holds whole numbers only."""
        return isinstance(self.low, int) and isinstance(self.high, int)


# A parameter's domain: a range, a list of choices, or one fixed value.
Domain = Range | list[Any] | int | float | str


class Words(NamedTuple):
    """A parameter that is a choice of words."""

    words: Collection[str]


class Numbers(NamedTuple):
    """A parameter that is a number: whole or not, at least `lowest`, or above it, and less than `below`."""

    kind: type
    lowest: float
    inclusive: bool
    below: float = math.inf


Parameters = Mapping[str, Words | Numbers]


def values_of(domain: Domain) -> list[Any]:
    """Return the values that a domain names: choices, both ends of a range, or the one fixed value."""
    if isinstance(domain, Range):
        return [domain.low, domain.high]
    return domain if isinstance(domain, list) else [domain]


def middle(domain: Domain) -> Any:
    """Return the middle of a domain: of a range, of the logarithms where it is one of those, or of choices in order.

    Of an even number of numbers it is the lower one; words have no order, so the first stands for them.
    """
    if not isinstance(domain, Range):
        values = values_of(domain)
        numbers = all(isinstance(value, int | float) for value in values)
        return sorted(values)[(len(values) - 1) // 2] if numbers else values[0]
    center = math.sqrt(domain.low * domain.high) if domain.log else (domain.low + domain.high) / 2
    center = min(max(center, domain.low), domain.high)  # a root is rounded
    return round(center) if domain.whole else center


def holds(domain: Domain, value: Any) -> bool:
    """Return whether a value is one of the domain's."""
    if not isinstance(domain, Range):
        return any(type(one) is type(value) and one == value for one in values_of(domain))
    number = isinstance(value, int if domain.whole else int | float) and not isinstance(value, bool)
    return number and domain.low <= value <= domain.high


def show_domain(domain: Domain) -> str:
    """Return a domain in the study file's words."""
    if isinstance(domain, Range):
        return f"{domain.low} to {domain.high}"
    return "one of " + ", ".join(map(str, values_of(domain)))


def check_domain(name: str, domain: Domain, parameters: Parameters) -> None:
    """Refuse a domain that its parameter cannot have.

    Args:
        name: Name of the parameter.
        domain: What the study file gives it.
        parameters: What there is to search.

    Raises:
        ValueError: The name is unknown, choices are missing or repeated, or a value is of the wrong kind or out of
            bounds.
    """
    if name not in parameters:
        raise ValueError(f"unknown parameter {name!r}{nearest(name, parameters)}")
    values, allowed = values_of(domain), parameters[name]
    if not values:
        raise ValueError(f"{name} has an empty list of choices; name at least one value")
    if isinstance(domain, list) and any(a == b for a, b in itertools.combinations(values, 2)):
        raise ValueError(f"{name} lists a value twice: {values}")
    if isinstance(allowed, Words):
        if unknown := [value for value in values if value not in list(allowed.words)]:
            raise ValueError(f"unknown {name} {unknown[0]!r}{nearest(str(unknown[0]), allowed.words)}")
        return
    kind, lowest, inclusive, below = allowed
    for value in values:
        whole = isinstance(value, int) and not isinstance(value, bool)
        if not (whole or (kind is float and isinstance(value, float))):
            raise ValueError(f"{name} takes {'whole numbers' if kind is int else 'numbers'}, got {value!r}")
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{name} must be finite, got {value!r}")
        if not (value >= lowest if inclusive else value > lowest):
            raise ValueError(f"{name} must be {'at least' if inclusive else 'above'} {lowest:g}, got {value!r}")
        if value >= below:
            raise ValueError(f"{name} must be below {below:g}, got {value!r}")


def nearest(name: str, valid: Iterable[str]) -> str:
    """Return the end of an error about an unknown name: the nearest valid one, else all of them."""
    names = list(valid)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else f"; accepted: {', '.join(names)}"


def show(value: Any) -> str:
    """Return a value nearly as a study file would write it."""
    if isinstance(value, dict):
        keys = {key: key if str(key).isidentifier() else repr(key) for key in value}
        return "{" + ", ".join(f"{keys[key]} = {show(inner)}" for key, inner in value.items()) + "}"
    return repr(value)
