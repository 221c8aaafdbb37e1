"""Defers Ctrl-C and SIGTERM while trials are asked for and told; lets them interrupt training at any moment.

A KeyboardInterrupt after Optuna has created a trial and before our code guards it, or while the trial's end is being
written, would leave the trial running in the database for ever, and the budget would count it.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


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
