"""Records of long runs: one line of JSON each, appended whole, so that a run that is cut off continues where it was."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

Key = tuple[str | int, ...]


class Journal:
    """Values by key, in memory and in a file.

    Several processes may append to one file, if each writes keys of its own. A last line that was cut off is dropped.

    Args:
        path: The file; it is made with the first record.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._found: dict[Key, dict[str, Any]] = {}
        for line in path.read_text().splitlines() if path.exists() else ():
            try:
                record = json.loads(line)
            except json.JSONDecodeError:
                continue
            self._found[tuple(record["key"])] = record["value"]

    @property
    def keys(self) -> list[Key]:
        """All keys, in the order of their first records."""
        return list(self._found)

    def get(self, key: Key) -> dict[str, Any] | None:
        """Return the value of a key, or None."""
        return self._found.get(key)

    def add(self, key: Key, value: dict[str, Any]) -> dict[str, Any]:
        """Record a value and return it."""
        # The leading newline ends a line that another process was killed in.
        line = "\n" + json.dumps({"key": key, "value": value}) + "\n"
        self._path.parent.mkdir(parents=True, exist_ok=True)
        place = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            os.write(place, line.encode())
        finally:
            os.close(place)
        self._found[key] = value
        return value
