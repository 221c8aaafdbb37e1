"""Whether an export's folder is still as it was when it was read."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path


class Folder:
    """The files of an export, by size and time.

    A service keeps what it has read; a folder that changes below it is said, not read again.

    Args:
        path: The export.
        files: Its files.
    """

    def __init__(self, path: Path, files: Iterable[str]) -> None:
        self.path, self._files = path, tuple(files)
        self._state = self._read()

    @property
    def changed(self) -> bool:
        """Whether a file was written, replaced or removed since."""
        return self._read() != self._state

    def _read(self) -> list[tuple[int, int, int] | None]:
        found: list[tuple[int, int, int] | None] = []
        for name in self._files:
            try:
                stat = (self.path / name).stat()
            except OSError:
                found.append(None)
            else:
                found.append((stat.st_ino, stat.st_size, stat.st_mtime_ns))
        return found
