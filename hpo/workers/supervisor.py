"""Keeps a search's workers going: starts them, replaces those that were lost, stops them in order."""

from __future__ import annotations

import contextlib
import logging
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

from hpo.search.signals import SIGNALS
from hpo.workers.engines import Ended, Engine, RunningWorker
from storage.errors import ScenetuneError

log = logging.getLogger(__name__)

POLL_SECONDS = 1.0
STOP_SECONDS = 30.0
ASK_AGAIN_SECONDS = 3.0
# So many times in a row a worker may be lost without the search getting any farther.
MAX_LOSSES_IN_A_ROW = 10


def supervise(
    engine: Engine,
    count: int,
    watch: Callable[[], object],
    over: Callable[[], bool],
    *,
    poll: float = POLL_SECONDS,
) -> None:
    """Runs `count` workers until all have ended.

    Args:
        engine: starts them.
        count: how many.
        watch: called about every `poll` seconds while they run; what it returns changes when the search gets farther.
        over: whether the search has ended or was stopped: who ends now is not replaced, who has not begun need not.
        poll: seconds between two looks.

    Raises:
        ScenetuneError: a worker failed, or was lost again and again; the others are stopped in order first.
        KeyboardInterrupt: after all workers have stopped.
    """
    workers: dict[int, RunningWorker] = {}
    losses, reached = Counter[int](), watch()
    try:
        for number in range(count):
            workers[number] = engine.start(number)
        while workers:
            for number, ended in _ended(workers):
                del workers[number]
                if ended.error is not None and not ended.lost:
                    raise ScenetuneError(f"a worker failed: {ended.error}")
                if ended.lost and not over():
                    losses[number] += 1
                    if losses[number] > MAX_LOSSES_IN_A_ROW:
                        raise ScenetuneError(
                            f"a worker was lost {losses[number]} times in a row and nothing was reached meanwhile; "
                            f"the last time it was {ended.error}"
                        )
                    log.warning("worker %d was lost (%s); starting another", number, ended.error)
                    workers[number] = engine.start(number)
            if (now := watch()) != reached:
                losses, reached = Counter(), now
            if over():
                for worker in workers.values():
                    worker.dismiss()
            time.sleep(poll)
    finally:
        _stop(list(workers.values()))


def _ended(workers: dict[int, RunningWorker]) -> list[tuple[int, Ended]]:
    return [(number, ended) for number, worker in workers.items() if (ended := worker.ended()) is not None]


def _stop(workers: Sequence[RunningWorker]) -> None:
    """Asks what still runs to stop, waits, and kills what will not; Ctrl-C and SIGTERM meanwhile are ignored."""
    with _undisturbed():
        deadline, asked = time.monotonic() + STOP_SECONDS, 0.0
        while (running := [each for each in workers if each.ended() is None]) and time.monotonic() < deadline:
            # Asked more than once: Python drops an interrupt that strikes in a destructor.
            if time.monotonic() - asked > ASK_AGAIN_SECONDS:
                asked = time.monotonic()
                for worker in running:
                    worker.stop()
            time.sleep(0.05)
        for worker in running:
            worker.kill()


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    before = {number: signal.signal(number, signal.SIG_IGN) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
