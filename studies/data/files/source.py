"""The source `"files"`: the user's own parquet, CSV or RecBole files."""

from __future__ import annotations

from pathlib import Path

from studies.data.files.cleaning import read_tables
from studies.data.files.keys import FileKeys
from studies.data.files.parts import find_parts
from studies.data.source import Tables


class Files(FileKeys):
    """Tables in files; the study file names the files and their columns."""

    def files(self) -> list[Path]:
        """Return all files of the three tables, sorted.

        Raises:
            InputError: A path does not exist, a folder is empty or mixes formats, or a format is unknown.
        """
        named = {"interactions": self.interactions, "items": self.items or [], "users": self.users or []}
        return sorted({part.path for key, paths in named.items() for part in find_parts(key, paths)})

    def read(self) -> Tables:
        """Read and clean the tables.

        Raises:
            InputError: A file cannot be read, a column is missing, or rows are unusable and `invalid` refuses them.
        """
        return read_tables(self)
