"""The local engine: worker processes on this machine, each its own interpreter (spawned, never forked)."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from hpo.trials import LAUNCHER
from storage.errors import ScenetuneError

STOP_SECONDS = 30.0
ASK_AGAIN_SECONDS = 3.0


def run(name: str, url: str, workers: int, logs: Path, watch: Callable[[], None], *, poll_seconds: float = 1.0) -> None:
    """Runs `workers` processes of `hpo worker NAME` to their end.

    They live in a session of their own, so that a terminal's Ctrl-C reaches this process alone, which then stops
    them in order: each queues its running trial again before it ends.

    Args:
        name: the study.
        url: database; handed over in the environment, never on a command line that others can list.
        workers: number of processes.
        logs: folder for one log file per worker.
        watch: called about every `poll_seconds` while they run.
        poll_seconds: seconds between calls.

    Raises:
        ScenetuneError: a worker failed; the others are stopped in order first.
        KeyboardInterrupt: after all workers have stopped.
    """
    logs.mkdir(parents=True, exist_ok=True)
    files = [logs / f"worker-{number}.log" for number in range(workers)]
    processes = [_spawn(name, url, number, workers, file) for number, file in enumerate(files)]
    try:
        while any(process.poll() is None for process in processes):
            for process, file in zip(processes, files, strict=True):
                if process.poll():
                    raise ScenetuneError(f"a worker failed: {_last_line(file)} (log: {file})")
            watch()
            time.sleep(poll_seconds)
        for process, file in zip(processes, files, strict=True):
            if process.returncode:
                raise ScenetuneError(f"a worker failed: {_last_line(file)} (log: {file})")
    finally:
        _stop(processes)


def _spawn(name: str, url: str, number: int, workers: int, file: Path) -> subprocess.Popen[bytes]:
    environment = os.environ | {"HPO_DATABASE_URL": url, LAUNCHER: str(os.getpid())}
    command = [sys.executable, "-m", "hpo", "worker", name, "--index", str(number), "--of", str(workers)]
    with file.open("ab") as output:
        return subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def _stop(processes: list[subprocess.Popen[bytes]]) -> None:
    """Asks what still runs to stop, waits, and kills what will not; a second Ctrl-C meanwhile is ignored."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        deadline = time.monotonic() + STOP_SECONDS
        # Asked more than once: Python drops an interrupt that strikes in a destructor.
        while (running := [process for process in processes if process.poll() is None]) and time.monotonic() < deadline:
            for process in running:
                process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                running[0].wait(ASK_AGAIN_SECONDS)
        for process in running:
            process.kill()
            process.wait()
    finally:
        signal.signal(signal.SIGINT, before)


def _last_line(file: Path) -> str:
    lines = file.read_text(errors="replace").strip().splitlines()
    return lines[-1].removeprefix("error: ") if lines else "it said nothing"
