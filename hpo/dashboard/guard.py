"""Decides which requests the dashboard answers: those meant for it, from its own pages, that change no study.

The dashboard has no login. A page of another site, open in a browser on the same machine, can send it requests; and it
can read the answers if its name resolves to this machine (DNS rebinding), but then `Host` holds that name.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import TYPE_CHECKING

from hpo.host_names import HostNames, hostname
from storage.errors import InputError

if TYPE_CHECKING:
    # Known to type checkers alone.
    from _typeshed.wsgi import WSGIEnvironment

READS = ("GET", "HEAD", "OPTIONS")
# All that browsers may change: no result, name or state of a study rests on the notes.
_WRITES = re.compile(r"PUT /api/studies/[0-9]+(/[0-9]+)?/note/?")
_REFUSED_WRITE = (
    "the dashboard changes notes alone. A study and its trials, with their records and files, are changed by "
    "hpo launch, hpo stop, hpo resume and hpo delete"
)


class Guard:
    """Decides which requests are answered.

    Args:
        host: The address or name that the server listens on.
        allowed_hosts: Further names under which browsers may reach it.
        read_only: Refuse notes too.

    Raises:
        InputError: A further name is none.
    """

    def __init__(self, host: str = "", allowed_hosts: Collection[str] = (), *, read_only: bool = False) -> None:
        self._further = {_checked(name) for name in allowed_hosts}
        self._names = HostNames(host, self._further)
        self._read_only = read_only

    def refusal(self, environ: WSGIEnvironment) -> str | None:
        """Return why a request is refused; None where it is not."""
        host, method = environ.get("HTTP_HOST", ""), environ["REQUEST_METHOD"]
        if not self._names.serve(host):
            return (
                f"{host[:100]!r} is no name of this dashboard: accepted are addresses, localhost and the names given "
                "to hpo dashboard with --host and --allowed-host"
            )
        if method in READS:
            return None
        if self._read_only:
            return "this dashboard was started with --read-only"
        if not self._is_own_page(environ, host):
            return "this request comes from a page of another site"
        return None if _WRITES.fullmatch(f"{method} {environ['PATH_INFO']}") else _REFUSED_WRITE

    def _is_own_page(self, environ: WSGIEnvironment, host: str) -> bool:
        """Return whether a request comes from a page of ours, or from no browser: those send at least one header."""
        if environ.get("HTTP_SEC_FETCH_SITE", "same-origin") not in ("same-origin", "none"):
            return False
        origin = environ.get("HTTP_ORIGIN")
        if origin is None:
            return True
        # The scheme is the proxy's where there is one.
        _, found, netloc = origin.partition("://")
        return bool(found) and (netloc.lower() == host.lower() or hostname(netloc) in self._further)


def _checked(name: str) -> str:
    if (found := hostname(name)) is None or "/" in name:
        raise InputError(f"--allowed-host {name} is no host name: accepted is one such as hpo.example.org")
    return found
