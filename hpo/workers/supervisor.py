"""The supervisor of a launch: starts its workers, replaces lost ones, and stops them in order."""

from __future__ import annotations

import contextlib
import logging
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

from hpo.signals import SIGNALS
from hpo.workers.engines import Ended, Engine, RunningWorker
from storage.errors import ScenetuneError

log = logging.getLogger(__name__)

POLL_SECONDS = 1.0
STOP_SECONDS = 30.0
REPEAT_STOP_SECONDS = 3.0
# A worker may be lost this many times in a row while the search makes no progress.
MAX_LOSSES_IN_A_ROW = 10


def supervise(
    engine: Engine,
    count: int,
    progress: Callable[[], object],
    ending: Callable[[], bool],
    *,
    report: Callable[[Counter[str]], None] = lambda reasons: None,
    poll: float = POLL_SECONDS,
) -> None:
    """Run `count` workers until all have ended.

    Args:
        engine: Starts the workers.
        count: Number of workers.
        progress: Called about every `poll` seconds; its result changes whenever the search makes progress.
        ending: Tells whether the search has ended or is to stop; lost workers are no longer replaced then, and queued
            ones are cancelled.
        report: Called before `progress` with the reasons for which workers wait for the database, and their numbers.
        poll: Seconds between two polls of the workers.

    Raises:
        ScenetuneError: A worker failed, or was lost again and again; the others are stopped in order first.
        KeyboardInterrupt: On Ctrl-C or SIGTERM, after all workers have stopped.
    """
    workers: dict[int, RunningWorker] = {}
    losses, reached = Counter[int](), progress()
    try:
        for number in range(count):
            workers[number] = engine.start(number)
        while workers:
            for number, ended in _ended(workers):
                del workers[number]
                if ended.error is not None and not ended.lost:
                    raise ScenetuneError(f"a worker failed: {ended.error}")
                if ended.lost and not ending():
                    losses[number] += 1
                    if losses[number] > MAX_LOSSES_IN_A_ROW:
                        raise ScenetuneError(
                            f"a worker was lost {losses[number]} times in a row without progress of the search; "
                            f"the last time it was {ended.error}"
                        )
                    log.warning("worker %d was lost (%s); starting another", number, ended.error)
                    workers[number] = engine.start(number)
            report(Counter(reason for worker in workers.values() if (reason := worker.waiting()) is not None))
            if (now := progress()) != reached:
                losses, reached = Counter(), now
            if ending():
                for worker in workers.values():
                    worker.cancel_if_queued()
            time.sleep(poll)
    finally:
        _stop(list(workers.values()))


def _ended(workers: dict[int, RunningWorker]) -> list[tuple[int, Ended]]:
    return [(number, ended) for number, worker in workers.items() if (ended := worker.ended()) is not None]


def _stop(workers: Sequence[RunningWorker]) -> None:
    """Ask running workers to stop, wait, and kill those that do not; Ctrl-C and SIGTERM meanwhile are ignored."""
    with _signals_ignored():
        deadline, asked = time.monotonic() + STOP_SECONDS, 0.0
        while (running := [each for each in workers if each.ended() is None]) and time.monotonic() < deadline:
            # Repeated: Python drops an interrupt that strikes in a destructor.
            if time.monotonic() - asked > REPEAT_STOP_SECONDS:
                asked = time.monotonic()
                for worker in running:
                    worker.stop()
            time.sleep(0.05)
        for worker in running:
            worker.kill()


@contextlib.contextmanager
def _signals_ignored() -> Iterator[None]:
    before = {number: signal.signal(number, signal.SIG_IGN) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
