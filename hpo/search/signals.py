"""Ctrl-C and SIGTERM may stop a trial at any moment of its training, and at no moment of the book-keeping around it.

A KeyboardInterrupt between Optuna's creating a trial and our guarding it, or while its end is being written, would
leave it running for ever in the database: nobody would finish it, and the budget would count it.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Shield:
    """Holds interrupts back until it is lifted or its time ends. See `shielded`."""

    def __init__(self) -> None:
        self._pending = self._lifted = False

    def handle(self, signum: int, frame: FrameType | None) -> None:
        """The signal handler: interrupts at once while lifted, else later."""
        self._pending = True
        if self._lifted:
            raise KeyboardInterrupt

    @contextlib.contextmanager
    def lifted(self) -> Iterator[None]:
        """Lets interrupts through, one held back first.

        Raises:
            KeyboardInterrupt: also at the end, when one was swallowed inside (Python drops what a destructor raises).
        """
        self._lifted = True
        try:
            self.check()
            yield
        finally:
            self._lifted = False
        self.check()

    def check(self) -> None:
        """Raises the KeyboardInterrupt that is waiting, if one is."""
        if self._pending:
            raise KeyboardInterrupt


@contextlib.contextmanager
def shielded() -> Iterator[Shield]:
    """Holds interrupts back while inside, but for what runs under the shield's `lifted()`.

    Raises:
        KeyboardInterrupt: at the end, when one was held back.
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
