"""The artifact store of all machines: `$HPO_ARTIFACTS`, a URL that fsspec knows, such as s3://bucket/prefix.

It is an object store or a mounted folder (file:///shared/x). The folders under the home's artifacts are then working
copies, each stored under its path relative to them. Without the variable, and for other folders, nothing is stored.
Credentials are those of the store's own client; no message shows them.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from secrets import token_hex
from typing import Any

from fsspec import AbstractFileSystem
from fsspec.core import url_to_fs

from storage.errors import ArtifactsUnavailable, InputError, ScenetuneError
from storage.home import home

VARIABLE = "HPO_ARTIFACTS"
_ACCEPTED = "accepted is a URL such as s3://bucket/prefix or file:///shared/folder; set it so, or unset it"


def push(folder: Path, last: str) -> None:
    """Upload a folder's files; they replace those of the same name in the store.

    Args:
        folder: A folder with files only.
        last: Name of the file that makes the others valid: it is removed first and uploaded last, so that an
            interrupted upload is not valid.

    Raises:
        ArtifactsUnavailable: The store refuses, after its client's own retries.
    """
    if (place := _place(folder)) is None:
        return
    store, path = place
    names = sorted(file.name for file in folder.iterdir() if file.name != last)
    with _explained(f"uploading {folder} to"):
        with suppress(FileNotFoundError):
            store.rm_file(f"{path}/{last}")
        for name in [*names, last]:
            store.put_file(str(folder / name), f"{path}/{name}")


def uploaded(folder: Path, last: str) -> set[str]:
    """Return the names of the subfolders of `folder` that were uploaded completely.

    Raises:
        ArtifactsUnavailable: The store does not answer.
    """
    if (place := _place(folder)) is None:
        return set()
    store, path = place
    with _explained(f"looking for {folder} in"):
        found = [file.split("/") for file in store.find(path)]
    return {parts[-2] for parts in found if parts[-1] == last}


def pull(folder: Path, into: Path) -> None:
    """Download the store's files of `folder`.

    Args:
        folder: The folder that was uploaded.
        into: An existing folder to write them into.

    Raises:
        ArtifactsUnavailable: The store does not answer, or they cannot be written.
    """
    if (place := _place(folder)) is None:
        return
    store, path = place
    with _explained(f"downloading {folder} from"):
        for file in store.find(path):
            store.get_file(file, str(into / file.rpartition("/")[2]))


def remove(folder: Path) -> None:
    """Remove the store's files of `folder`; local files stay.

    Raises:
        ArtifactsUnavailable: The store refuses.
    """
    if (place := _place(folder)) is None:
        return
    store, path = place
    with _explained(f"removing {folder} from"):
        _erase(store, path)


def copy(folder: Path, to: Path) -> bool:
    """Copy a folder under another name, here and in the store; return whether it was in one of them.

    Raises:
        ArtifactsUnavailable: The store refuses.
        OSError: It cannot be copied here.
    """
    found = folder.is_dir()
    if found:
        shutil.copytree(folder, to, dirs_exist_ok=True)
    if (place := _place(folder)) is None or (target := _place(to)) is None:
        return found
    store, path = place
    with _explained(f"copying {folder} in"):
        files = store.find(path)
        for file in files:
            store.cp_file(file, f"{target[1]}{file.removeprefix(path)}")
    return found or bool(files)


def check_store() -> None:
    """Check that artifacts can be kept: write, read and remove a probe file, here and in the store.

    Raises:
        InputError: One of them refuses; the message says which, and why.
    """
    here = home() / "artifacts"
    name = f".probe-{token_hex(6)}"
    try:
        here.mkdir(exist_ok=True)
        (here / name).write_bytes(b"probe")
        (here / name).unlink()
    except OSError as error:
        raise InputError(
            f"cannot write to {here} ({error.strerror}): free or permit it, or set HPO_HOME to another folder"
        ) from error
    if (place := _place(here / name)) is None:
        return
    store, path = place
    with _explained("writing a probe to", InputError):
        store.pipe_file(f"{path}/probe", b"probe")
        for file in store.find(path):
            store.cat_file(file)
        _erase(store, path)


def _erase(store: AbstractFileSystem, path: str) -> None:
    # `rm` of an object store takes the path as a pattern, and a study may be called "*".
    for file in store.find(path):
        store.rm_file(file)
    if "file" in store.protocol:
        with suppress(FileNotFoundError):
            store.rm(path, recursive=True)


def _place(folder: Path) -> tuple[AbstractFileSystem, str] | None:
    """Return the store's file system and a folder's path there; None without a store or for a folder elsewhere."""
    url, artifacts = os.environ.get(VARIABLE), home() / "artifacts"
    if not url or not folder.absolute().is_relative_to(artifacts):
        return None
    store, root = _open(url)
    return store, f"{root.rstrip('/')}/{folder.absolute().relative_to(artifacts).as_posix()}"


def _open(url: str) -> tuple[AbstractFileSystem, str]:
    scheme, separator, _ = url.partition("://")
    if not separator:
        raise InputError(f"{VARIABLE} is {_shown()!r}: {_ACCEPTED}")
    # Other machines write there too, so listings must not be cached.
    options: dict[str, Any] = {"use_listings_cache": False}
    if scheme in ("file", "local"):
        options["auto_mkdir"] = True
    try:
        opened: tuple[AbstractFileSystem, str] = url_to_fs(url, **options)
    except ImportError as error:
        wanted = "pip install 'scenetune[s3]'" if scheme.startswith("s3") else str(error)
        raise InputError(f"{VARIABLE} is {_shown()!r}, and the package for {scheme} is missing: {wanted}") from error
    except Exception as error:
        raise InputError(f"{VARIABLE} is {_shown()!r} ({_reason(error)}): {_ACCEPTED}") from error
    return opened


@contextmanager
def _explained(doing: str, kind: type[ScenetuneError] = ArtifactsUnavailable) -> Iterator[None]:
    """Raise a store client's exception, of whatever class, as an error for users."""
    try:
        yield
    except Exception as error:
        raise kind(
            f"{doing} the store {_shown()} failed ({_reason(error)}): check {VARIABLE}, the network, and that its "
            "credentials may list, read, write and delete there"
        ) from error


def _reason(error: Exception) -> str:
    return _without_secrets(str(error).strip() or type(error).__name__)


def _shown() -> str:
    return _without_secrets(os.environ.get(VARIABLE, ""))


def _without_secrets(text: str) -> str:
    """Return the text without the user, password and query of the URLs in it."""
    return re.sub(r"(?<=://)([^/\s]*@)?([^?\s]*)(\?\S*)?", lambda found: found[2], text)
