"""Opens a study's artifacts where they lie, or makes them, when a browser or Optuna asks for one.

Only what an id can say is ever read: whoever may write to the database cannot have any other file served.
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
from hpo.registry import load_spec_of
from hpo.reporting.document import study_document
from hpo.reporting.page import html
from hpo.stages import check_evaluated, exported_folders
from storage.database.postgres import Database
from storage.database.records import Records
from storage.errors import CorruptArtifact, DatabaseUnreachable, InputError, ScenetuneError
from storage.files import checkpoints
from storage.home import trial_folder

READ_ONLY = "artifacts are what a study made: they are neither uploaded nor deleted, and go with hpo delete"
# Of a request's environment: the headers that go with the artifact that answers it.
HEADERS = "scenetune.headers"


class Opened(NamedTuple):
    """An artifact to read.

    Attributes:
        file: from its start.
        filename: what it is called where it is saved.
        size: in bytes.
    """

    file: BinaryIO
    filename: str
    size: int


class Artifacts:
    """An `optuna.artifacts` store of all studies of a database, to read from.

    Args:
        database: whose studies.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        # Two who ask for the same checkpoint would fetch it from the shared store over each other.
        self._fetching = threading.Lock()

    def open_reader(self, artifact_id: str) -> BinaryIO:
        """Opens an artifact, as Optuna wants it; see `open`."""
        return self.open(artifact_id).file

    def open(self, artifact_id: str) -> Opened:
        """Opens an artifact: a checkpoint or an export as a ZIP of one folder, a report as a page.

        Raises:
            ArtifactNotFound: the id is none of ours, or what it names is not here or no longer what it was.
            ScenetuneError: the shared store or the database does not answer.
            OSError: there is no room for the ZIP.
        """
        artifact = parse(artifact_id)
        if artifact is None:
            raise ArtifactNotFound(f"{artifact_id[:40]!r} is not the id of a checkpoint, a report or an export")
        opens = {"checkpoint": self._checkpoint, "report": self._report, "export": self._export}
        try:
            return opens[artifact.kind](artifact)
        except DatabaseUnreachable:
            raise
        except InputError as error:
            raise ArtifactNotFound(str(error)) from error

    def write(self, artifact_id: str, content_body: BinaryIO) -> None:
        """Refused: what is here is what a study made.

        Raises:
            InputError: always.
        """
        raise InputError(READ_ONLY)

    def remove(self, artifact_id: str) -> None:
        """Refused: what is here goes with its study.

        Raises:
            InputError: always.
        """
        raise InputError(READ_ONLY)

    def _checkpoint(self, artifact: Artifact) -> Opened:

        folder = trial_folder(artifact.study, int(artifact.of))
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
        return _zipped(_files_of_export(known[0], name), export_name(name, known[0]))

    def _folders(self, name: str) -> tuple[Path, ...]:
        return exported_folders(Records(self._database.engine).stage_results(name))


def _files_of_export(folder: Path, study: str) -> dict[str, Path]:
    """An export's files as its manifest names and vouches for them.

    Raises:
        InputError: the folder is not here, not this study's, or not as it was written.
    """
    again = f"hpo export {study} --out DIR writes it again"
    if not folder.is_dir():
        raise InputError(f"the export {folder} is not on this machine: {again}")
    manifest = read(folder)
    if (of := manifest.get("study")) != study:
        raise InputError(f"{folder} holds an export of study {of!r} by now: {again}")
    files = {name: folder / name for name in (*manifest["files"], MANIFEST)}
    inside = folder.resolve()
    if any(not path.resolve().is_relative_to(inside) for path in files.values()):
        raise InputError(f"the manifest of {folder} names files outside it: {again}")
    verify(folder)
    return files


def _zipped(files: Mapping[str, Path], filename: str) -> Opened:
    """A ZIP of one folder that is called as the file is; weights do not shrink, so nothing is deflated."""
    file = tempfile.TemporaryFile()  # noqa: SIM115 - whoever reads it closes it
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED, strict_timestamps=False) as archive:
        for name, path in files.items():
            archive.write(path, f"{filename.removesuffix('.zip')}/{name}")
    size = file.tell()
    file.seek(0)
    return Opened(file, filename, size)


class ToBrowsers(Artifacts):
    """The same for bottle's requests: what can be opened gets the name of a file, what cannot is answered in words."""

    def open_reader(self, artifact_id: str) -> BinaryIO:
        """Opens an artifact, and leaves its headers with the request.

        Raises:
            bottle.HTTPResponse: it cannot be opened.
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
    """A page is shown, anything else saved; a length, so that a broken-off download is seen to be one."""
    name = opened.filename
    shown = "inline" if name.endswith(".html") else "attachment"
    plain = name.encode("ascii", "replace").decode().replace("?", "_")
    return [
        ("Content-Disposition", f"{shown}; filename=\"{plain}\"; filename*=UTF-8''{quote(name)}"),
        ("Content-Length", str(opened.size)),
        ("X-Content-Type-Options", "nosniff"),
    ]
