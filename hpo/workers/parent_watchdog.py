"""Workers that an engine has started do not outlive it: nobody would be left to stop them."""

from __future__ import annotations

import os
import signal
import threading
import time

# Set by an engine for the workers that it starts: its process id.
LAUNCHER = "HPO_LAUNCHER_PID"
LOOK_SECONDS = 1.0


def follow_launcher() -> None:
    """Stops this process in order, as SIGTERM does, once the engine's process that started it is gone.

    It is watched from the start, while data are loaded and between trials too.
    """
    launcher = os.environ.get(LAUNCHER)
    if launcher is not None:
        threading.Thread(target=_watch, args=(int(launcher),), daemon=True, name="leash").start()


def _watch(launcher: int) -> None:
    while True:
        if os.getppid() != launcher:
            # Again and again: Python drops an interrupt that strikes in a destructor. SIGINT may be ignored.
            os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(LOOK_SECONDS)
