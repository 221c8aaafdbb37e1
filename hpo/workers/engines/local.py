"""The local engine: worker processes on this machine, each its own interpreter (spawned, never forked)."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from hpo.workers.engines import Ended
from hpo.workers.parent_watchdog import LAUNCHER
from storage.errors import InputError
from storage.files.outputs import check_place
from storage.home import log_folder
from studies.escaping import visible

INTERRUPTED = 130
# A warning of `storage.database`, in the format of `hpo worker`'s log.
_WARNING = re.compile(r"\S+ \S+ WARNING storage\.database\.\S+: (.*)")
_TAIL_BYTES = 4096


class LocalEngine:
    """Starts `hpo worker NAME` on this machine.

    Workers run in process groups of their own, so that a terminal's Ctrl-C reaches the launcher alone, which then
    stops them in order.

    Args:
        name: Name of the study.
        url: URL of the database; passed in the environment, never on a command line that other users can list.
        workers: How many workers share this machine's cores, and its GPUs in turn.
        folder: Returns the name of the study's folder once it is registered; it gets one log per worker.
        gpus: Number of GPUs.
    """

    def __init__(self, name: str, url: str, workers: int, folder: Callable[[], str], gpus: int = 0) -> None:
        self._name, self._url, self._workers, self._folder, self._gpus = name, url, workers, folder, gpus

    def start(self, number: int) -> Process:
        """Start a worker process; its log is appended to."""
        environment = os.environ | {"HPO_DATABASE_URL": self._url, LAUNCHER: str(os.getpid())}
        if self._gpus > 1 and "CUDA_VISIBLE_DEVICES" not in os.environ:
            environment["CUDA_VISIBLE_DEVICES"] = str(number % self._gpus)
        log = log_folder(self._folder()) / f"worker-{number}.log"
        return Process(worker_command(self._name, self._workers), environment, log)


class Process:
    """A worker process with its log."""

    def __init__(self, command: list[str], environment: dict[str, str], log: Path) -> None:
        self._log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as output:
            self._start = output.tell()
            self._process = subprocess.Popen(
                command,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def ended(self) -> Ended | None:
        """Return how the worker ended; None while it runs."""
        code = self._process.poll()
        if code is None:
            return None
        if code == 0:
            return Ended()
        if code < 0:
            return Ended(f"killed by {signal.Signals(-code).name} (log: {self._log})", lost=True)
        return Ended(f"{_last_line(self._log)} (log: {self._log})", lost=code == INTERRUPTED)

    def waiting(self) -> str | None:
        """Return the database's last warning in the log while nothing follows it."""
        with self._log.open("rb") as log:
            size = log.seek(0, os.SEEK_END)
            log.seek(max(self._start, size - _TAIL_BYTES))
            lines = log.read().decode(errors="replace").splitlines()
        found = _WARNING.fullmatch(lines[-1]) if lines else None
        return found[1] if found else None

    def stop(self) -> None:
        """Ask the worker to requeue its trial and to end."""
        self._process.send_signal(signal.SIGTERM)

    def cancel_if_queued(self) -> None:
        """Do nothing: a process is never queued."""

    def kill(self) -> None:
        """End the worker at once."""
        self._process.kill()
        self._process.wait()


def worker_command(name: str, workers: int) -> list[str]:
    """Return the command of one of `workers` workers of a study on one machine."""
    # -P: a folder of the user's that is called hpo, studies or storage must not stand in for the package.
    return [sys.executable, "-P", "-m", "hpo", "worker", name, "--of", str(workers)]


def _last_line(log: Path) -> str:
    try:
        check_place(log, "free space there, then run the same command again")
    except InputError as error:
        # The worker could not say so: its log is on that disk.
        return str(error)
    lines = log.read_text(errors="replace").strip().splitlines()
    return visible(lines[-1].removeprefix("error: ")) if lines else "no output"
