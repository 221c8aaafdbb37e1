"""Opens a study's artifacts for browsers and for Optuna: files on disk, and the report, which is rendered.

Nothing but what an id can name is read: access to the database gives no access to other files.
"""

from __future__ import annotations

import io
import tempfile
import threading
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple
from urllib.parse import quote

import bottle
from optuna.artifacts.exceptions import ArtifactNotFound

from distill.export.manifest import MANIFEST, read, verify
from hpo.artifacts import Artifact, checkpoint_name, export, export_name, parse, report_name
from hpo.ownership import load_record, owned_by_optuna_name
from hpo.registry import load_spec_of
from hpo.reporting.renderers.page import html
from hpo.reporting.study_report import study_document
from hpo.stages import check_evaluated, exported_folders
from storage.database.postgres import Database
from storage.database.records import Records, StudyRecord
from storage.errors import CorruptArtifact, InputError, ScenetuneError
from storage.files import checkpoints

READ_ONLY = "artifacts are what a study made: they are neither uploaded nor deleted, and go with hpo delete"
# The key of a request's environment that holds the headers of its answer.
HEADERS = "scenetune.headers"


class Opened(NamedTuple):
    """An artifact to read.

    Attributes:
        file: From its start.
        filename: Its name where it is saved.
        size: In bytes.
    """

    file: BinaryIO
    filename: str
    size: int


class Artifacts:
    """An `optuna.artifacts` store of all studies of a database, to read from.

    Args:
        database: Of the studies.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        # Two requests for the same checkpoint would fetch it from the shared store over each other.
        self._fetching = threading.Lock()

    def open_reader(self, artifact_id: str) -> BinaryIO:
        """Open an artifact for Optuna; see `open`."""
        return self.open(artifact_id).file

    def open(self, artifact_id: str) -> Opened:
        """Open an artifact: a checkpoint or an export as a ZIP of one folder, a report as a page.

        Raises:
            ArtifactNotFound: The id is none of ours, or what it names is not here or was altered.
            ScenetuneError: The shared store or the database does not answer.
            OSError: There is no room for the ZIP.
        """
        artifact = parse(artifact_id)
        if artifact is None:
            raise ArtifactNotFound(f"{artifact_id[:40]!r} is not the id of a checkpoint, a report or an export")
        opens = {"checkpoint": self._checkpoint, "report": self._report, "export": self._export}
        try:
            return opens[artifact.kind](artifact)
        except InputError as error:
            raise ArtifactNotFound(str(error)) from error

    def write(self, artifact_id: str, content_body: BinaryIO) -> None:
        """Refuse to write: artifacts are made by studies alone.

        Raises:
            InputError: Always.
        """
        raise InputError(READ_ONLY)

    def remove(self, artifact_id: str) -> None:
        """Refuse to remove: artifacts are removed with their study.

        Raises:
            InputError: Always.
        """
        raise InputError(READ_ONLY)

    def _checkpoint(self, artifact: Artifact) -> Opened:
        owned = owned_by_optuna_name(self._database, artifact.study)
        if owned is None:
            raise InputError(f"no study of this database owns {artifact.study!r}")
        folder = owned.trial_folder(int(artifact.of))
        try:
            with self._fetching:
                found = checkpoints.last_folder(folder)
        except CorruptArtifact as error:
            raise InputError(
                f"{error}. What another machine trained is here if HPO_ARTIFACTS names the store that both share"
            ) from error
        files = {name: found / name for name in (checkpoints.WEIGHTS, checkpoints.MANIFEST)}
        return _zipped(files, checkpoint_name(artifact))

    def _report(self, artifact: Artifact) -> Opened:
        name = artifact.study
        spec, evaluation = load_spec_of(self._database, name), check_evaluated(self._database, name)
        folders = [folder for folder in self._folders(name) if folder.is_dir()]
        document = study_document(self._database, spec, evaluation, folders[-1] if folders else None)
        page = html(document).encode()
        return Opened(io.BytesIO(page), report_name(name), len(page))

    def _export(self, artifact: Artifact) -> Opened:
        name = artifact.study
        known = [folder for folder in self._folders(name) if export(name, folder) == artifact]
        if not known:
            raise InputError(f"study {name!r} was not exported to that folder: hpo export {name} --out DIR writes one")
        return _zipped(_files_of_export(known[0], load_record(self._database, name)), export_name(name, known[0]))

    def _folders(self, name: str) -> tuple[Path, ...]:
        return exported_folders(Records(self._database.engine).stage_results(name))


def _files_of_export(folder: Path, record: StudyRecord) -> dict[str, Path]:
    """Return an export's files after checking them against its manifest.

    Raises:
        InputError: The folder is not here, not this study's, or not as it was written.
    """
    again = f"hpo export {record.name} --out DIR writes it again"
    if not folder.is_dir():
        raise InputError(f"the export {folder} is not on this machine: {again}")
    manifest = read(folder)
    if manifest.study_id != record.id:
        raise InputError(f"{folder} holds an export of another study ({manifest.study!r}) by now: {again}")
    files = {name: folder / name for name in (*manifest.files, MANIFEST)}
    inside = folder.resolve()
    if any(not path.resolve().is_relative_to(inside) for path in files.values()):
        raise InputError(f"the manifest of {folder} names files outside it: {again}")
    verify(folder)
    return files


def _zipped(files: Mapping[str, Path], filename: str) -> Opened:
    """Return a ZIP of one folder, named like the file; weights hardly compress, so nothing is deflated."""
    file = tempfile.TemporaryFile()  # noqa: SIM115 - its reader closes it
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED, strict_timestamps=False) as archive:
        for name, path in files.items():
            archive.write(path, f"{filename.removesuffix('.zip')}/{name}")
    size = file.tell()
    file.seek(0)
    return Opened(file, filename, size)


class ToBrowsers(Artifacts):
    """The same for bottle's requests: with headers that name the file, and errors as answers of HTTP."""

    def open_reader(self, artifact_id: str) -> BinaryIO:
        """Open an artifact, and store its headers with the request.

        Raises:
            bottle.HTTPResponse: It cannot be opened.
        """
        try:
            opened = self.open(artifact_id)
        except ArtifactNotFound as error:
            raise _answer(404, error) from error
        except (ScenetuneError, OSError) as error:
            raise _answer(503, error) from error
        bottle.request.environ[HEADERS] = _headers(opened)
        return opened.file


def _answer(status: int, error: Exception) -> Any:
    return bottle.HTTPResponse(f"{error}\n", status, content_type="text/plain; charset=utf-8")


def _headers(opened: Opened) -> list[tuple[str, str]]:
    """Return headers: a page is shown, anything else saved; the length tells a browser of a broken download."""
    name = opened.filename
    shown = "inline" if name.endswith(".html") else "attachment"
    plain = name.encode("ascii", "replace").decode().replace("?", "_")
    return [
        ("Content-Disposition", f"{shown}; filename=\"{plain}\"; filename*=UTF-8''{quote(name)}"),
        ("Content-Length", str(opened.size)),
        ("X-Content-Type-Options", "nosniff"),
    ]
