"""Finds the files of a table: their formats, and the columns in the names of their folders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote

from storage.errors import InputError

# Columns added to those of a file; the "#" keeps them apart from the user's names.
ROW, TIME, SECONDS = "#row", "#time", "#seconds"

ACCEPTED = ".parquet, .pq, .csv, .tsv, .txt, .inter, .item, .user, and text also with .gz, .zst or .bz2"
_PARQUET = (".parquet", ".pq")
_CSV = (".csv", ".tsv", ".txt")
_RECBOLE = (".inter", ".item", ".user")
_COMPRESSED = (".gz", ".zst", ".bz2")


@dataclass(frozen=True)
class FilePart:
    """One file of a table: its path, its format, and the columns in the names of its folders (`store=1`)."""

    path: Path
    format: str
    folders: dict[str, str | None] = field(default_factory=dict)


def find_parts(key: str, paths: Sequence[str]) -> list[FilePart]:
    """Return the files of a table; folders are searched recursively, in sorted order.

    Args:
        key: The study file's key, for errors.
        paths: Absolute paths of files and folders. Hidden files and those that start with "_" are left out.

    Raises:
        InputError: A path does not exist, a folder holds no file, or the files have several formats.
    """
    found: dict[Path, FilePart] = {}
    for part in (part for path in paths for part in _parts_at(key, Path(path))):
        # A file that is given twice, by its path and by its folder's, is read once.
        found[part.path] = max(found.get(part.path, part), part, key=lambda same: len(same.folders))
    parts = list(found.values())
    for part in parts[1:]:
        if part.format != parts[0].format:
            raise InputError(
                f"data.{key} mixes formats: {parts[0].path} is {parts[0].format}, {part.path} is {part.format}; "
                "name files of one format"
            )
    return parts


def _parts_at(key: str, path: Path) -> list[FilePart]:
    if not path.exists():
        raise InputError(
            f"data.{key}: {path} does not exist; relative paths are looked up from the study file's folder: "
            "correct the path"
        )
    if not path.is_dir():
        return [FilePart(path, _format_of(key, path))]
    files = [file for file in sorted(path.rglob("*")) if file.is_file()]
    shown = [file for file in files if not any(name.startswith((".", "_")) for name in file.relative_to(path).parts)]
    if not shown:
        raise InputError(f"data.{key}: the folder {path} holds no files; accepted are {ACCEPTED}: name another folder")
    return [FilePart(file, _format_of(key, file), _folders(file.relative_to(path))) for file in shown]


def _format_of(key: str, path: Path) -> str:
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in _PARQUET:
        return "parquet"
    if suffixes and suffixes[-1] in _COMPRESSED:
        suffixes.pop()
    last = suffixes[-1] if suffixes else ""
    if last in _CSV:
        return "CSV"
    if last in _RECBOLE:
        return f"RecBole {last}"
    raise InputError(f"data.{key}: cannot tell the format of {path}; accepted are {ACCEPTED}: rename or convert it")


def _folders(relative: Path) -> dict[str, str | None]:
    pairs = (name.partition("=") for name in relative.parts[:-1] if "=" in name)
    return {key: None if value == "__HIVE_DEFAULT_PARTITION__" else unquote(value) for key, _, value in pairs}
