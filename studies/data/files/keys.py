"""The keys of `source = "files"`, with the checks that need no file."""

from __future__ import annotations

import difflib
import zoneinfo
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from studies.config.search_domains import Section
from studies.data.files.text_template import text_fields
from studies.data.files.times import check_format
from studies.data.files.written_numbers import DecimalSign
from studies.data.source import InteractionSource, absolute_paths

Column = Annotated[str, Field(min_length=1)]


class Positive(Section):
    """The rows of the log that are positive: a column has one of `values`, or a number of at least `at_least`.

    Attributes:
        column: Column of the log.
        values: What the column holds in positive rows, such as `["purchase"]`.
        at_least: Least number in positive rows, such as 4 of 5 stars.
    """

    column: Column
    values: Annotated[list[str | bool | int | float], Field(min_length=1)] | None = None
    at_least: int | float | None = None

    @model_validator(mode="after")
    def _one_condition(self) -> Positive:
        if (self.values is None) == (self.at_least is None):
            raise ValueError('takes either values, such as ["purchase"], or at_least, such as 4, beside column')
        return self


class TableKeys(Section):
    """What the keys of all sources of files have in common: how their tables are read.

    Attributes:
        text: The text of a row: a column, several columns, or a template such as "{title} by {brand}".
        time_unit: Unit of times that are numbers. Without it, their size tells the unit.
        time_format: strptime format of times that are text. Without it, they are ISO 8601.
        timezone: IANA zone of times that name none.
        decimal: Decimal sign of numbers that are text, such as 1,541. Without it, the column's other values tell it.
        delimiter: Delimiter of CSV. Without it, it is detected.
        encoding: Encoding of CSV. Without it, it is detected.
        invalid: Whether a row without a usable id or time is an error, or is dropped and counted.
    """

    text: Column | list[Column]
    time_unit: Literal["s", "ms", "us", "ns"] | None = None
    time_format: str | None = None
    timezone: str = "UTC"
    decimal: DecimalSign | None = None
    delimiter: str | None = None
    encoding: str | None = None
    invalid: Literal["refuse", "drop"] = "refuse"

    @field_validator("text")
    @classmethod
    def _template(cls, text: str | list[str]) -> str | list[str]:
        text_fields(text)
        return text

    @field_validator("time_format")
    @classmethod
    def _format(cls, form: str | None) -> str | None:
        if form is not None:
            check_format(form)
        return form

    @field_validator("timezone")
    @classmethod
    def _zone(cls, name: str) -> str:
        known = sorted(zoneinfo.available_timezones())
        if name not in known:
            near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
            # A common slip is the city alone.
            near = [zone for zone in known if zone.lower().endswith("/" + name.lower().replace(" ", "_"))] or near
            guess = f"did you mean {' or '.join(near)}?" if near else 'take an IANA name such as "Europe/Berlin"'
            raise ValueError(f"unknown time zone {name!r}; {guess}")
        return name

    @field_validator("delimiter")
    @classmethod
    def _delimiter(cls, sign: str | None) -> str | None:
        if sign is not None and (len(sign) != 1 or not sign.isascii() or sign in '"\r\n'):
            raise ValueError(f'takes one character, such as ";" or "\\t", got {sign!r}')
        return sign

    @field_validator("encoding")
    @classmethod
    def _encoding(cls, name: str | None) -> str | None:
        try:
            "".encode(name or "utf-8")
        except LookupError as error:
            known = 'one that Python knows, such as "utf-8" or "latin-1"'
            raise ValueError(f"unknown encoding {name!r}; take {known}") from error
        return name

    @model_validator(mode="after")
    def _numbers_or_text(self) -> TableKeys:
        if self.time_unit is not None and self.time_format is not None:
            raise ValueError("time_unit is for numbers and time_format for text: give one of them")
        return self


class FileKeys(TableKeys, InteractionSource):
    """The paths of the files and the meaning of their columns.

    Attributes:
        interactions: The log: a file, several files, or a folder. Relative paths start at the study file's folder.
        items: The catalogue. Without it, columns of the log describe the items.
        users: The table of users, where the scene is a column of the user.
        user: Column of the user's id, in the log and in `users`.
        item: Column of the item's id, in the log and in `items`.
        time: Column of the interaction's time.
        scene: Column of the scene, searched in `items`, then in the log, then in `users`.
        positive: Condition on the rows of the log that are used; all of them without it.
    """

    paths: ClassVar[frozenset[str]] = frozenset({"interactions", "items", "users"})
    examples: ClassVar[Mapping[str, str]] = {
        "interactions": '"purchases.csv"',
        "scene": '"category"',
        "text": '"{title}, {brand}"',
    }

    source: Literal["files"]
    interactions: list[str]
    items: list[str] | None = None
    users: list[str] | None = None
    user: Column = "user_id"
    item: Column = "item_id"
    time: Column = "timestamp"
    scene: Column
    positive: Positive | None = None

    @field_validator("interactions", "items", "users", mode="before")
    @classmethod
    def _absolute(cls, value: Any, info: ValidationInfo) -> list[str] | None:
        return None if value is None else absolute_paths(value, info)

    @property
    def scene_is_user(self) -> bool:
        """Return whether each user is a scene."""
        return self.scene == self.user
