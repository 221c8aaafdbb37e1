"""What runs while a test watches: the workers of a command, its trials, and waiting for what they do."""

import contextlib
import subprocess
import time
from collections.abc import Callable
from typing import Any

import optuna
import psutil

from storage.database.postgres import connect
from tests.forked import Forked


def wait_for(condition: Callable[[], Any], process: subprocess.Popen[str] | Forked, seconds: float = 300) -> None:
    """Polls until the condition holds; the process must not end before. Other tests may hold the machine up."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.2)
    raise AssertionError("it never happened")


def trials_of(url: str, name: str = "mini") -> list[optuna.trial.FrozenTrial]:
    """A study's trials; the tables may be missing, and another process may be creating them."""
    database = connect(url)
    try:
        return optuna.load_study(study_name=name, storage=database.storage).trials
    finally:
        database.engine.dispose()


def children(pid: int) -> list[psutil.Process]:
    """The workers that a process has started."""
    found = []
    for child in psutil.Process(pid).children():
        with contextlib.suppress(psutil.Error):  # killed, and not collected yet
            if "worker" in child.cmdline():
                found.append(child)
    return found
