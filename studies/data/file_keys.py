"""The keys of `source = "files"`, and what can be checked of them without opening a file."""

from __future__ import annotations

import difflib
import zoneinfo
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from studies.config.search_domains import Section
from studies.data.source import Source
from studies.data.text_template import text_fields
from studies.data.times import check_format

Column = Annotated[str, Field(min_length=1)]


class Positive(Section):
    """Which rows of the log count: those with one of some values, or with a number that is large enough."""

    column: Column
    values: Annotated[list[str | bool | int | float], Field(min_length=1)] | None = None
    at_least: int | float | None = None

    @model_validator(mode="after")
    def _one_condition(self) -> Positive:
        if (self.values is None) == (self.at_least is None):
            raise ValueError('takes either values, such as ["purchase"], or at_least, such as 4, beside column')
        return self


class FileKeys(Source):
    """Where the files are, and what their columns mean.

    Attributes:
        interactions: the log: a file, several, or a folder of parts. Relative paths count from the study file.
        items: the catalogue; left out, the log's own columns describe the items.
        users: a table of users, for a scene that is a matter of the user.
        user: column of the user's id, in the log and in `users`.
        item: column of the item's id, in the log and in `items`.
        time: column of the interaction's time.
        scene: column of the scene, looked for in `items`, then in the log, then in `users`.
        text: what the encoder reads: a column, several, or a template such as "{title} by {brand}".
        positive: which rows of the log count.
        time_unit: unit of times that are numbers; left out, it is told by their size.
        time_format: strptime format of times that are text; left out, they are ISO 8601.
        timezone: IANA zone of times that name none.
        delimiter: of CSV; left out, it is found out.
        encoding: of CSV; left out, it is found out.
        invalid: whether a row without a usable id or time is an error, or is left out and counted.
    """

    paths: ClassVar[frozenset[str]] = frozenset({"interactions", "items", "users"})

    source: Literal["files"]
    interactions: list[str]
    items: list[str] | None = None
    users: list[str] | None = None
    user: Column = "user_id"
    item: Column = "item_id"
    time: Column = "timestamp"
    scene: Column
    text: Column | list[Column]
    positive: Positive | None = None
    time_unit: Literal["s", "ms", "us", "ns"] | None = None
    time_format: str | None = None
    timezone: str = "UTC"
    delimiter: str | None = None
    encoding: str | None = None
    invalid: Literal["refuse", "drop"] = "refuse"

    @field_validator("interactions", "items", "users", mode="before")
    @classmethod
    def _absolute(cls, value: Any, info: ValidationInfo) -> Any:
        if value is None:
            return None
        paths = value if isinstance(value, list) else [value]
        if not paths or not all(isinstance(path, str | Path) and str(path) for path in paths):
            raise ValueError(f'takes a path or a list of paths, such as "log.csv", got {value!r}')
        folder = (info.context or {}).get("folder") or Path()
        return [str(Path(folder, Path(path).expanduser()).absolute()) for path in paths]

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
            # People write the city alone.
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
    def _numbers_or_text(self) -> FileKeys:
        if self.time_unit is not None and self.time_format is not None:
            raise ValueError("time_unit is for numbers and time_format for text: give one of them")
        return self

    @property
    def scene_is_user(self) -> bool:
        """Whether each user is a scene."""
        return self.scene == self.user
