"""The command in a process that starts with everything loaded: a new interpreter imports for seconds what it needs.

Real processes all the same, each with a pid of its own: they run `hpo.cli.main`, and are killed, stopped and waited
for. Tests of how the installed script itself starts or ends use `tests.mini.start`.
"""

import contextlib
import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from hpo.cli import main
from tests.mini import started

# What the command loads sooner or later; the server that forks loads it once.
PRELOADED = [
    "hpo.job",
    "hpo.workers.worker",
    "studies.training.objective",
    "studies.training.ranking",
    "torch._dynamo",
    "transformers.models.auto.tokenization_auto",
    "transformers.models.bert.modeling_bert",
]


class Forked:
    """A command that runs; used as a `subprocess.Popen` is.

    Args:
        arguments: Of the command.
        cwd: Its folder.
        environment: All of its environment.
    """

    def __init__(self, arguments: list[str], cwd: Path, environment: dict[str, str]) -> None:
        self._written = [tempfile.NamedTemporaryFile("r", prefix="forked-", encoding="utf-8") for _ in range(2)]  # noqa: SIM115
        files = [each.name for each in self._written]
        self._process = multiprocessing.get_context("forkserver").Process(
            target=_run, args=(arguments, cwd, environment, files)
        )
        self._process.start()
        self.pid = self._process.pid
        started.append(self)

    @property
    def returncode(self) -> int | None:
        """The exit code, or a negative signal; None while it runs."""
        return self._process.exitcode

    def poll(self) -> int | None:
        """Whether it has ended, and how."""
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Waits for its end."""
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired("hpo", timeout or 0)
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Waits for its end; returns what it has written to stdout and stderr."""
        self.wait(timeout)
        output, errors = (Path(each.name).read_text("utf-8") for each in self._written)
        return output, errors

    def send_signal(self, number: int) -> None:
        """Sends it a signal."""
        if self.returncode is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Ends it at once."""
        self._process.kill()


def fork(*arguments: str | Path, cwd: Path | None = None, **environment: str) -> Forked:
    """Starts the command without waiting for it."""
    return Forked([*map(str, arguments)], cwd or Path.cwd(), os.environ | environment)


@contextlib.contextmanager
def worker(name: str, **environment: str) -> Iterator[None]:
    """A worker of a study that is launched inside the block with `--engine external`, and ends with its search."""
    process = fork("worker", name, "--wait", **environment)
    yield
    assert process.wait(timeout=60) == 0, process.communicate()[1]


def _run(arguments: list[str], cwd: Path, environment: dict[str, str], files: list[str]) -> None:
    for number, file in enumerate(files, start=1):
        os.dup2(os.open(file, os.O_WRONLY | os.O_APPEND), number)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["hpo", *arguments]
    main()
