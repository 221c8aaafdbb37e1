"""Renews a running trial's lease in the background, stores its progress, and interrupts it on `hpo stop --now`."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
from collections.abc import Iterator

from storage.database.control import Control
from storage.database.leases import HEARTBEAT_SECONDS, Leases, Worker
from storage.errors import DatabaseFailed

log = logging.getLogger(__name__)


class Heartbeat:
    """The heartbeat of one worker's running trial.

    Args:
        leases: Leases on the study's trials.
        control: Stop requests for the study.
        worker: This process.
    """

    def __init__(self, leases: Leases, control: Control, worker: Worker) -> None:
        self._leases, self._control, self._worker = leases, control, worker
        self._progress: float | None = None

    def report_progress(self, progress: float) -> None:
        """Note how much of the running trial is done, from 0 to 1; the next heartbeat stores it."""
        self._progress = progress

    @contextlib.contextmanager
    def of(self, trial: int) -> Iterator[None]:
        """Send heartbeats while the block runs; interrupt the block by SIGTERM when the study is to stop now.

        A lease that was lost does not interrupt the block, which checks its lease at each rung.

        Args:
            trial: Number of the trial.
        """
        done = threading.Event()
        self._progress = None
        thread = threading.Thread(target=self._beat, args=(trial, done), daemon=True, name=f"heartbeat-{trial}")
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    def _beat(self, trial: int, done: threading.Event) -> None:
        while not done.wait(HEARTBEAT_SECONDS):
            try:
                self._leases.renew(trial, self._worker, self._progress)
                stop = self._control.state().stop == "now"
            except DatabaseFailed as error:
                log.warning("trial %d: the heartbeat failed: %s", trial, error)
                continue
            except Exception:
                log.warning("trial %d: the heartbeat failed; trying again", trial, exc_info=True)
                continue
            if stop and not done.is_set():
                os.kill(os.getpid(), signal.SIGTERM)  # SIGINT may be ignored, as under nohup
