"""Stops a worker process when the launcher process that started it is gone, so that no worker is left unsupervised."""

from __future__ import annotations

import os
import signal
import threading
import time

# Environment variable that an engine sets for its workers: the engine's own process id.
LAUNCHER = "HPO_LAUNCHER_PID"
POLL_SECONDS = 1.0


def start_parent_watchdog() -> None:
    """Stop this process as SIGTERM does once the engine process that started it is gone.

    It runs in a thread from the start of the process: while data are loaded and between trials too.
    """
    launcher = os.environ.get(LAUNCHER)
    if launcher is not None:
        threading.Thread(target=_watch, args=(int(launcher),), daemon=True, name="parent-watchdog").start()


def _watch(launcher: int) -> None:
    while True:
        if os.getppid() != launcher:
            # Repeated: Python drops an interrupt that strikes in a destructor. SIGTERM, as SIGINT may be ignored.
            os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(POLL_SECONDS)
