"""Lets requests in: those with the token, meant for this service, of a bounded size and number; and counts answers."""

from __future__ import annotations

import asyncio
import hmac
import logging
import time
from dataclasses import dataclass, field

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hpo.host_names import HostNames
from hpo.service.front.answers import answer
from hpo.service.limits import Limits
from hpo.service.metrics import Metrics
from hpo.service.refusals import Refusal
from storage.errors import OutOfMemory, quoted
from studies.training.out_of_memory import recognised

log = logging.getLogger(__name__)

# Answered without a token: whether the service lives, and how it is asked.
OPEN = ("/health", "/docs", "/openapi.json")
_METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS")
# A body that is too large is read up to so many times the limit, so that its sender hears of it.
_DRAINED = 8


class _Gone(Exception):
    """The client has gone before its request was read."""


@dataclass
class _Sent:
    """What was answered so far."""

    send: Send
    status: int = field(default=0)

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
        await self.send(message)


class Gate:
    """An ASGI application in front of another.

    Args:
        app: The other one.
        limits: Of requests.
        metrics: Count them.
        token: The bearer token; None where none is needed.
        hosts: The names that it serves under, where it serves this machine alone and needs no token: the name of
            another site, whose page a browser here shows, could resolve to it (DNS rebinding). None where all do.
    """

    def __init__(
        self, app: ASGIApp, limits: Limits, metrics: Metrics, token: str | None, hosts: HostNames | None
    ) -> None:
        self._app, self._limits, self._metrics, self._hosts = app, limits, metrics, hosts
        self._token = None if token is None else token.encode()
        self._running = 0
        metrics.watch("requests_running", "Requests that are being answered.", lambda: self._running)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, sent = time.perf_counter(), _Sent(send)
        self._running += 1
        try:
            await self._answer(scope, receive, sent)
        except _Gone:
            pass
        finally:
            self._running -= 1
            # A client may name any path and method; each would be a series of its own.
            route = getattr(scope.get("route"), "path", "other")
            method = scope["method"] if scope["method"] in _METHODS else "other"
            self._metrics.request(method, route, sent.status, time.perf_counter() - started)

    async def _answer(self, scope: Scope, receive: Receive, sent: _Sent) -> None:
        try:
            self._check(scope["path"], Headers(scope=scope))
            body = await self._read(receive)
            _check_type(body, Headers(scope=scope))
            with recognised("memory ran out: ask for less at a time, or lower the limits of hpo serve"):
                await self._app(scope, _replay(body, receive), sent)
        except Refusal as refusal:
            await answer(refusal)(scope, receive, sent)
        except OutOfMemory as error:
            log.error("%s %s: %s", scope["method"], scope["path"], error)
            await answer(Refusal(503, "out of memory", str(error)))(scope, receive, sent)
        except _Gone:
            raise
        except Exception:
            log.exception("%s %s failed", scope["method"], scope["path"])
            if sent.status:
                raise
            words = "the service failed; its log says where. It serves other requests"
            await answer(Refusal(500, "internal", words))(scope, receive, sent)

    def _check(self, path: str, headers: Headers) -> None:
        if self._running > self._limits.running:
            words = f"{self._limits.running:,} requests are being answered already; try again"
            raise Refusal(503, "busy", words, {"Retry-After": "1"})
        if path in OPEN:
            return
        if self._hosts is not None and not self._hosts.serve(host := headers.get("host", "")):
            words = f"{quoted(host)} is no name of this service; use its address, or start it with a token"
            raise Refusal(403, "unknown host", words)
        if self._token is None:
            return
        kind, _, given = headers.get("authorization", "").partition(" ")
        if kind.lower() != "bearer" or not hmac.compare_digest(given.strip().encode(), self._token):
            words = "send the header `Authorization: Bearer TOKEN` with the token that the service was started with"
            raise Refusal(401, "wrong token", words, {"WWW-Authenticate": "Bearer"})

    async def _read(self, receive: Receive) -> bytes:
        """Return a request's body."""
        parts, size = [], 0
        try:
            async with asyncio.timeout(self._limits.body_seconds):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise _Gone
                    part = message.get("body", b"")
                    if (size := size + len(part)) <= self._limits.body:
                        parts.append(part)
                    if not message.get("more_body") or size > _DRAINED * self._limits.body:
                        break
        except TimeoutError:
            words = f"the body did not arrive within {self._limits.body_seconds:g} s; send it again"
            raise Refusal(408, "too slow", words) from None
        if size > self._limits.body:
            raise Refusal(
                413,
                "body too large",
                f"the body has more than {self._limits.body:,} bytes; send several requests, or start the service with "
                "a higher --max-body",
            )
        return b"".join(parts)


def _check_type(body: bytes, headers: Headers) -> None:
    given = headers.get("content-type", "")
    if body and given.partition(";")[0].strip().lower() != "application/json":
        words = (
            f"the body is declared as {quoted(given) if given else 'nothing'}; send `Content-Type: application/json`"
        )
        raise Refusal(415, "no json", words)


def _replay(body: bytes, receive: Receive) -> Receive:
    """Return what receives a body that was read already, and then what follows it."""
    messages = [{"type": "http.request", "body": body, "more_body": False}]

    async def replayed() -> Message:
        return messages.pop() if messages else await receive()

    return replayed
