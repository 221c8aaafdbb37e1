"""Handles Ctrl-C and SIGTERM: they end a command once, and are deferred while trials are asked for and told.

A KeyboardInterrupt after Optuna has created a trial and before our code guards it, or while the trial's end is being
written, would leave the trial running in the database for ever, and the budget would count it.
"""

from __future__ import annotations

import contextlib
import math
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)
# A second Ctrl-C within this time is the same request: raised while the first one ends the command, it would break off
# what the first one cleans up, and print a traceback.
SAME_REQUEST_SECONDS = 1.0


class Interrupts:
    """Handles the signals of a command: the first interrupts it, and none disturbs its end."""

    def __init__(self) -> None:
        self._last = -math.inf

    def install(self) -> None:
        """Handle Ctrl-C, unless it is ignored as under nohup, and SIGTERM, with which schedulers stop a job."""
        if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
            signal.signal(signal.SIGINT, self._handle)
        signal.signal(signal.SIGTERM, self._handle)

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if (now := time.monotonic()) - self._last > SAME_REQUEST_SECONDS:
            self._last = now
            raise KeyboardInterrupt

    def end(self) -> None:
        """Ignore signals from now on: the command has been interrupted, and only prints that."""
        for number in SIGNALS:
            if signal.getsignal(number) == self._handle:
                signal.signal(number, signal.SIG_IGN)


# Of this process.
interrupts = Interrupts()


class Shield:
    """Defers interrupts except inside `lifted`; made by `shielded`."""

    def __init__(self) -> None:
        self._pending = self._lifted = False

    def handle(self, signum: int, frame: FrameType | None) -> None:
        """Handle a signal: interrupt at once inside `lifted`, otherwise later."""
        self._pending = True
        if self._lifted:
            raise KeyboardInterrupt

    @contextlib.contextmanager
    def lifted(self) -> Iterator[None]:
        """Let interrupts through, first one that was deferred.

        Raises:
            KeyboardInterrupt: Also at the end, when one was lost inside (Python drops what a destructor raises).
        """
        self._lifted = True
        try:
            self.check()
            yield
        finally:
            self._lifted = False
        self.check()

    def check(self) -> None:
        """Raise the deferred KeyboardInterrupt, if there is one."""
        if self._pending:
            raise KeyboardInterrupt


@contextlib.contextmanager
def shielded() -> Iterator[Shield]:
    """Defer interrupts inside the block, except in the shield's `lifted()`.

    Raises:
        KeyboardInterrupt: At the end, when one was deferred.
    """
    shield = Shield()
    if threading.current_thread() is not threading.main_thread():
        yield shield  # signals reach the main thread only
        return
    # A signal that is ignored (as SIGINT under nohup) stays so.
    before = {number: signal.getsignal(number) for number in SIGNALS}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, shield.handle)
    try:
        yield shield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    shield.check()
