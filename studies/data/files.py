"""`source = "files"`: the user's own parquet, CSV or RecBole files."""

from __future__ import annotations

from pathlib import Path

from studies.data import shop
from studies.data.file_keys import FileKeys
from studies.data.readers import find_parts
from studies.data.source import Tables


class Files(FileKeys):
    """Tables in files, as the study file names them and their columns."""

    def files(self) -> list[Path]:
        """All files of the three tables, sorted.

        Raises:
            InputError: a path does not exist, a folder is empty or mixes formats, or a format is unknown.
        """
        named = {"interactions": self.interactions, "items": self.items or [], "users": self.users or []}
        return sorted({part.path for key, paths in named.items() for part in find_parts(key, paths)})

    def read(self) -> Tables:
        """Reads the tables.

        Raises:
            InputError: a file cannot be read, a column is missing, or rows are unusable and `invalid` refuses them.
        """
        return shop.read(self)
