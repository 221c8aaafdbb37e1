"""Entries of caches: folders whose files are compared with their digests before they are used.

What a disk, a copy or a hand has changed would give wrong figures without an error. A damaged entry is made again, as
everything in a cache can be, and the log says so.
"""

from __future__ import annotations

import errno
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from storage.files.atomic import atomic_folder, sha256

log = logging.getLogger(__name__)

DIGESTS = "digests.json"


@contextmanager
def new_entry(path: Path) -> Iterator[Path]:
    """Yield an empty folder to write files into; with their digests, it replaces the entry `path` when the block ends.

    Of several processes that make the same entry at the same time, one's stays.
    """
    try:
        with atomic_folder(path, replace=True) as draft:
            yield draft
            digests = {file.name: sha256(file) for file in sorted(draft.iterdir())}
            (draft / DIGESTS).write_text(json.dumps(digests, indent=2), encoding="utf-8")
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise


def damage(path: Path) -> str | None:
    """Return what is wrong with the files of an entry, None where they are as they were written.

    It reads them whole, as fast as a disk does (docs/decisions.md): call it once per process and entry.
    """
    try:
        digests = json.loads((path / DIGESTS).read_bytes())
        for name, digest in digests.items():
            if sha256(path / name) != digest:
                return f"{path / name} was truncated or altered"
    except OSError as error:
        return f"{error.filename or path} cannot be read ({error.strerror})"
    except (ValueError, AttributeError):
        return f"{path / DIGESTS} was truncated or altered"
    return None


def intact(path: Path) -> bool:
    """Return whether an entry exists and is as it was written; say so in the log where it is damaged."""
    if not path.exists():
        return False
    if reason := damage(path):
        warn(reason)
    return reason is None


def warn(reason: str) -> None:
    """Say in the log that an entry is made again, with the reason that `damage` gave."""
    log.warning("damaged cache: %s; it is made again", reason)
