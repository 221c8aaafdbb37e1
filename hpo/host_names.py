"""The host names under which a server on this machine is reached, to refuse requests that were meant for others."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection
from urllib.parse import urlsplit


class HostNames:
    """Names of a server.

    Args:
        host: The address or name that it listens on.
        further: Other names under which browsers may reach it.
    """

    def __init__(self, host: str, further: Collection[str] = ()) -> None:
        self._names = {"localhost", _plain(host), *further}

    def serve(self, netloc: str) -> bool:
        """Return whether a Host header is one of ours; an address is, since no site can let it resolve elsewhere."""
        name = hostname(netloc)
        return name is not None and (name in self._names or _is_address(name))


def hostname(netloc: str) -> str | None:
    """Return the name or address in `name`, `name:port` or `[address]:port`; None if it is malformed."""
    try:
        name = urlsplit(f"//{netloc}").hostname
    except ValueError:
        return None
    return _plain(name) if name else None


def is_loopback(host: str) -> bool:
    """Return whether a host is reached from this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _plain(name: str) -> str:
    """Return a name as names are compared: in lower case, without the dot that may end it."""
    return name.lower().removesuffix(".")


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
