"""A search under faults: real worker processes and a real PostgreSQL; training is simulated (benchmarks/chaos.py)."""

import os
import shutil
import sys
import time

import chaos
import psutil
import pytest
from optuna.trial import TrialState

from hpo.registry import register
from hpo.search.trial_chains import LOST
from storage.database.control import Control
from storage.database.embedded import EmbeddedPostgres
from storage.database.postgres import connect
from storage.database.records import Records

pytestmark = pytest.mark.slow

SUPERVISOR = """
from pathlib import Path
import chaos
from storage.database.postgres import connect
chaos.search(connect({url!r}), chaos.study("orphans", 50), Path({folder!r}), 2, chaos.undisturbed)
"""


@pytest.fixture
def server(tmp_path):
    """A server of the test's own, to be ill-treated."""
    server = EmbeddedPostgres(tmp_path / "server")
    server.start()
    yield server
    server.start()
    server.stop()
    shutil.rmtree(server.folder)


def alive(pid):
    """Whether a process runs; one that has ended may stay in the table until somebody collects it."""
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def test_a_worker_killed_again_and_again_finds_what_an_undisturbed_one_finds(database, tmp_path):
    """Preempted machines must cost time alone: no trial lost, none counted twice, no rung trained twice."""
    wild, _, wrong = chaos.killed_search(database, tmp_path, count=8, seed=1)
    assert not wrong
    assert wild.started == 9
    assert any(LOST in trial.user_attrs for trial in wild.trials), "some kill struck a running trial"
    assert len(Records(database.engine).rung_results("wild")) == len(wild.trained())


def test_a_database_that_is_stopped_killed_and_cut_off_costs_neither_worker_nor_trial(server, tmp_path):
    """A restart for an update is no fault of anybody's: the living must not be taken for dead."""
    database = connect(server.url)
    try:
        outcome, lost, wrong = chaos.restarted_search(database, server, tmp_path, count=3)
    finally:
        database.engine.dispose()
    assert not wrong
    assert outcome.started == 4
    assert len(lost) == 3


def test_workers_in_other_time_zones_are_not_taken_for_dead(database, tmp_path, monkeypatch):
    """Session-local times of two workers can lie 26 hours apart: the later one would reap the earlier one."""
    spec = chaos.study("zones", trials=8)

    class Zones(chaos.Workers):
        def start(self, number):
            zone = ("Pacific/Kiritimati", "Etc/GMT+12")[number]
            monkeypatch.setenv("TZ", zone)
            monkeypatch.setenv("PGTZ", zone)
            return super().start(number)

    monkeypatch.setattr(chaos, "Workers", Zones)
    spec = spec.model_copy(update={"search": spec.search.model_copy(update={"timeout_minutes": 600})})
    outcome = chaos.search(database, spec, tmp_path, 2, chaos.undisturbed)
    assert not outcome.faults(8), "nor was the launch's time over in one of them"
    assert not [trial.number for trial in outcome.trials if LOST in trial.user_attrs]
    assert outcome.started == 2


def test_trials_with_the_same_parameters_are_trials_of_their_own(database, tmp_path):
    """A space of one point, or a sampler that repeats itself: checkpoints and results must not be shared."""
    spec = chaos.study("same", trials=4)
    space = spec.search.space | {"outer_lr": 5e-4, "meta_batch_size": 4, "weight_decay": 0.1, "head": "all"}
    spec = spec.model_copy(update={"search": spec.search.model_copy(update={"space": space})})
    outcome = chaos.search(database, spec, tmp_path, 2, chaos.undisturbed)
    assert not outcome.faults(4)
    assert len({str(trial.params) for trial in outcome.trials}) == 1
    assert max(outcome.trained().values()) == 1
    assert {folder for folder, rung in outcome.trained() if rung == 0} == {f"trial-{n:05d}" for n in range(4)}


def test_a_stop_reaches_every_worker_within_a_rung(database, tmp_path):
    """Workers on other machines hear of it through the database alone."""
    spec = chaos.study("stopped", trials=100)

    def stop(engine, over):
        while not any("trained" in entry for entry in chaos.Journal(engine.journal).read()):
            time.sleep(0.05)
        Control(database.engine, "stopped").stop("rung")

    outcome = chaos.search(database, spec, tmp_path, 3, stop)
    assert 1 <= len(outcome.trials) < 100
    assert {trial.state for trial in outcome.trials} <= {TrialState.WAITING, TrialState.COMPLETE, TrialState.PRUNED}
    assert outcome.started == 3

    register(database, chaos.study("stopped", trials=6), "simulated")
    resumed = chaos.search(database, chaos.study("stopped", trials=6), tmp_path, 3, chaos.undisturbed)
    assert not resumed.faults(6)
    assert max(resumed.trained().values()) == 1, "nothing that was paused is trained again"


def test_workers_leave_nothing_behind_when_their_supervisor_is_killed(database, tmp_path):
    """No process, no lock, no lease: the next launch must find the study as if nobody had ever worked on it."""
    spec = chaos.study("orphans", trials=50)
    register(database, spec, "simulated")
    supervisor = chaos.Process(
        [sys.executable, "-c", SUPERVISOR.format(url=database.url, folder=str(tmp_path))],
        os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        tmp_path / "supervisor.log",
    )
    journal = chaos.Journal(tmp_path / "orphans.jsonl")
    deadline = time.monotonic() + 60
    while len(journal.read()) < 4 and time.monotonic() < deadline:
        time.sleep(0.1)
    pids = {entry["pid"] for entry in journal.read()}
    assert pids, (tmp_path / "supervisor.log").read_text()
    supervisor.kill()
    deadline = time.monotonic() + 30
    while any(map(alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not any(map(alive, pids))
    done = chaos.search(database, chaos.study("orphans", trials=5), tmp_path, 1, chaos.undisturbed)
    assert not [t.number for t in done.trials if t.state == TrialState.RUNNING]
