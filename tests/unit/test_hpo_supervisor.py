"""The supervisor with real worker processes, which run, end and are killed."""

import os
import signal
import sys
import time

import psutil
import pytest

from hpo.workers.engines.local import Process
from hpo.workers.supervisor import MAX_LOSSES_IN_A_ROW, supervise
from storage.errors import ScenetuneError

FOREVER = "import time\nwhile True: time.sleep(0.05)"
IN_ORDER = "import signal, sys, time\nsignal.signal(signal.SIGTERM, lambda *a: sys.exit(130))\n"


class Scripted:
    """An engine that starts, for each worker, the next of its scripts; the last one repeatedly."""

    def __init__(self, folder, *scripts):
        self._folder, self._scripts = folder, list(scripts)
        self.started = []

    def start(self, number):
        """Start a worker, as engines do."""
        script = self._scripts.pop(0) if len(self._scripts) > 1 else self._scripts[0]
        process = Process([sys.executable, "-c", script], dict(os.environ), self._folder / f"{number}.log")
        self.started.append(process)
        return process

    @property
    def pids(self):
        """Process ids of all workers that were started."""
        return [process._process.pid for process in self.started]

    def alive(self):
        """Return the process ids of the workers that still run."""
        return [pid for pid in self.pids if psutil.pid_exists(pid) and psutil.Process(pid).status() != "zombie"]


def run(engine, count=1, progress=lambda: 0, ending=lambda: False):
    supervise(engine, count, progress, ending, poll=0.02)


def test_it_ends_when_all_workers_have_ended(tmp_path):
    """The good case: no worker is started twice."""
    engine = Scripted(tmp_path, "pass")
    run(engine, count=3)
    assert len(engine.started) == 3


def test_a_killed_worker_is_replaced(tmp_path):
    """A machine's out-of-memory killer takes one worker: the search must go on with as many as before."""
    engine = Scripted(tmp_path, "import os\nos.kill(os.getpid(), 9)", "pass")
    run(engine)
    assert len(engine.started) == 2


def test_a_worker_that_is_lost_again_and_again_ends_the_search_with_the_reason(tmp_path):
    """Starting it for ever would look like work."""
    engine = Scripted(tmp_path, "import os\nos.kill(os.getpid(), 9)")
    with pytest.raises(ScenetuneError, match=r"lost 11 times in a row .* killed by SIGKILL"):
        run(engine)
    assert len(engine.started) == MAX_LOSSES_IN_A_ROW + 1


def test_losses_do_not_add_up_while_the_search_makes_progress(tmp_path):
    """On machines that are taken away every few minutes a long search loses hundreds of workers."""
    killed = "import os\nos.kill(os.getpid(), 9)"
    engine = Scripted(tmp_path, *[killed] * (2 * MAX_LOSSES_IN_A_ROW), "pass")
    reached = iter(range(10_000))
    run(engine, progress=lambda: next(reached))
    assert len(engine.started) == 2 * MAX_LOSSES_IN_A_ROW + 1


def test_an_error_ends_the_search_with_the_workers_message_and_stops_the_others(tmp_path):
    """Whatever is wrong with one worker is wrong with the next: data, version, database."""
    failing = "import sys, time\ntime.sleep(0.3)\nprint('error: no such data')\nsys.exit(2)"
    engine = Scripted(tmp_path, IN_ORDER + FOREVER, failing)
    with pytest.raises(ScenetuneError, match=r"a worker failed: no such data \(log: .*1.log\)"):
        run(engine, count=2)
    assert not engine.alive()


def test_no_worker_is_replaced_once_the_search_is_to_stop(tmp_path):
    """`hpo stop` would start as many workers as it ends."""
    engine = Scripted(tmp_path, "import sys\nsys.exit(130)")
    run(engine, count=2, ending=lambda: True)
    assert len(engine.started) == 2


def test_why_a_worker_waits_for_the_database_is_reported_while_it_does(tmp_path):
    """The reason stands in the worker's log, and "workers starting" is all that its user sees for ten minutes."""
    says = "2026-11-27 15:00:00,000 {} storage.database.retry: the database {}"
    seen, over = tmp_path / "seen", tmp_path / "over"
    until = "import pathlib, time\nwhile not pathlib.Path({!r}).exists(): time.sleep(0.01)\n"
    script = f"print({says.format('WARNING', 'failed')!r}, flush=True)\n{until.format(str(seen))}"
    script += f"print({says.format('INFO', 'is back')!r}, flush=True)\n{until.format(str(over))}"
    (tmp_path / "0.log").write_text(says.format("WARNING", "failed an earlier worker") + "\n")
    reports = [{}]

    def report(reasons):
        if reasons != reports[-1]:
            reports.append(dict(reasons))
            (over if seen.exists() else seen).touch()

    supervise(Scripted(tmp_path, script), 1, lambda: 0, lambda: False, report=report, poll=0.02)
    assert reports == [{}, {"the database failed": 1}, {}]


def test_ctrl_c_stops_all_workers_in_order(tmp_path):
    """Orphaned workers would train on without a launcher."""
    engine = Scripted(tmp_path, IN_ORDER + FOREVER)
    polls = iter(range(10_000))

    def progress():
        if next(polls) == 5:
            time.sleep(0.3)  # until they have set their handlers
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        run(engine, count=2, progress=progress)
    assert not engine.alive()
    assert {process.ended().error is not None and process.ended().lost for process in engine.started} == {True}


def test_a_worker_that_will_not_stop_is_killed(tmp_path, monkeypatch):
    """One that hangs in native code must not keep the launcher from ending."""
    monkeypatch.setattr("hpo.workers.supervisor.STOP_SECONDS", 0.5)
    stubborn = "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + FOREVER
    engine = Scripted(tmp_path, stubborn, "import sys, time\ntime.sleep(0.5)\nsys.exit(1)")
    with pytest.raises(ScenetuneError):
        run(engine, count=2)
    assert not engine.alive()
