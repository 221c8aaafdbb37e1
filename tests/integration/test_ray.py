"""The Ray engine on a real cluster: several nodes on this machine, each with its own raylet."""

import contextlib
import os
import shutil
import signal
import tempfile
import time
from collections import Counter
from pathlib import Path

import psutil
import pytest
from optuna.trial import TrialState

from hpo.search.trial_chains import LOST, chains
from hpo.workers.supervisor import STOP_SECONDS
from tests.forked import fork
from tests.mini import hpo, mini
from tests.running import trials_of, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("shared_caches")]
ray = pytest.importorskip("ray")
MEMORY = 80 * 2**20


@pytest.fixture(scope="module")
def cluster():
    """A head whose CPU is taken by nobody but workers, and one node more; folders and processes are gone afterwards."""
    from ray.cluster_utils import Cluster

    # Sockets need a short path, which pytest's folders are not.
    folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")
    settings = {"num_cpus": 1, "num_gpus": 0, "object_store_memory": MEMORY, "include_dashboard": False}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_TMPDIR", folder)
        # By default nodes are polite (15): beside other tests, their workers would hardly ever get a turn.
        patch.setenv("RAY_worker_niceness", "0")
        # Ray's own children would count the tests' home as the nodes' own.
        patch.delenv("HPO_HOME", raising=False)
        before = {child.pid for child in psutil.Process().children(recursive=True)}
        made = Cluster(initialize_head=True, head_node_args=settings)
        try:
            made.add_node(num_cpus=1, object_store_memory=MEMORY)
            yield made
        finally:
            made.shutdown()
            left = [child for child in psutil.Process().children(recursive=True) if child.pid not in before]
            _, alive = psutil.wait_procs([child for child in left if _is_ray(child)], timeout=10)
            for process in alive:
                process.kill()
            shutil.rmtree(folder, ignore_errors=True)


def _is_ray(process):
    with contextlib.suppress(psutil.Error):
        return "ray" in " ".join(process.cmdline())
    return False


def workers_of(home: str | None = None) -> list[psutil.Process]:
    """The worker processes of this test's study, whoever their parent is by now."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        if (process.info["cmdline"] or [])[1:6] == ["-P", "-m", "hpo", "worker", "mini"]:
            with contextlib.suppress(psutil.Error):
                if process.environ().get("HPO_HOME") == (home or os.environ["HPO_HOME"]):
                    found.append(process)
    return found


def node_of(worker: psutil.Process) -> int:
    """The process id of the raylet that a worker runs under."""
    return next(parent.pid for parent in worker.parents() if parent.name() == "raylet")


def actors() -> list[psutil.Process]:
    """The processes of our actors, which Ray names after what they do."""
    return [process for process in psutil.process_iter(["name"]) if process.info["name"].startswith("ray::Host")]


def longer(study: Path) -> Path:
    text = study.read_text().replace("rungs = [2, 4]", "rungs = [2, 40]")
    study.write_text(text.replace("eta = 2", 'rule = "asha"\neta = 9'))
    return study


def launched(study: Path, cluster, url: str, *flags: str):
    return fork(
        "launch", study, "--engine", "ray", "--address", cluster.address, *flags, cwd=study.parent, HPO_DATABASE_URL=url
    )


def finished(process, url: str, trials: int) -> str:
    """Waits for a launch that ends well with its exact budget, and returns its stderr."""
    _, errors = process.communicate(timeout=400)
    assert process.returncode == 0, errors
    found = trials_of(url)
    # A stopped trial that is taken up again is a trial of Optuna's more, and none of the budget.
    assert len(chains(found)) == trials
    assert len({trial.number for trial in found}) == len(found)
    assert {trial.state for trial in found} <= {TrialState.COMPLETE, TrialState.PRUNED}
    return errors


def gone(seconds: float = 20) -> bool:
    deadline = time.monotonic() + seconds
    while workers_of() and time.monotonic() < deadline:
        time.sleep(0.2)
    return not workers_of()


def test_a_search_runs_on_the_nodes_and_workers_without_a_node_do_not_hold_it_up(cluster, database_url, tmp_path):
    """A worker that the cluster has no room for would keep the launcher waiting after the search has ended."""
    process = launched(mini(tmp_path, trials=3), cluster, database_url, "--workers", "3")
    wait_for(lambda: len(workers_of()) == 2, process)
    assert len({node_of(worker) for worker in workers_of()}) == 2
    errors = finished(process, database_url, 3)
    ours = ("mini: ", "splitting ", "counting ", "encoding ", "sampling ", "auditing ", "search: ", "trial ")
    assert all(line.startswith(ours) for line in errors.splitlines()), errors
    assert gone(0)
    logs = sorted((Path(os.environ["HPO_HOME"]) / "artifacts").glob("mini-*/logs/worker-*.log"))
    assert len(logs) == 2
    assert all("ran" in log.read_text() for log in logs)


@pytest.fixture
def extra_node(cluster):
    """A node more, which no later test finds, whatever becomes of this one."""
    node = cluster.add_node(num_cpus=1, object_store_memory=MEMORY)
    yield node
    if node in cluster.list_all_nodes():
        cluster.remove_node(node, allow_graceful=False)


def test_a_killed_node_costs_no_trial(cluster, extra_node, database_url, tmp_path):
    """Its trial must go to another worker, and its worker must not train on for nobody."""
    raylet = extra_node.all_processes["raylet"][0].process.pid
    # So many that the first workers cannot have done them all before the last one comes.
    process = launched(longer(mini(tmp_path, trials=60)), cluster, database_url, "--workers", "3")

    def all_run():
        with contextlib.suppress(KeyError):
            return Counter(trial.state for trial in trials_of(database_url))[TrialState.RUNNING] == 3

    wait_for(all_run, process)
    (lost,) = [worker for worker in workers_of() if node_of(worker) == raylet]
    cluster.remove_node(extra_node, allow_graceful=False)
    errors = finished(process, database_url, 60)
    assert "was lost" in errors
    assert not lost.is_running()
    assert gone(0)


def test_ctrl_c_stops_the_workers_on_the_nodes_in_order(cluster, database_url, tmp_path):
    """Workers in their own sessions on other machines hear no Ctrl-C: left alone they would go on, or lose trials."""
    process = launched(longer(mini(tmp_path, trials=60)), cluster, database_url, "--workers", "3")

    def some_run():
        with contextlib.suppress(KeyError):
            return Counter(trial.state for trial in trials_of(database_url))[TrialState.RUNNING] == 2

    wait_for(some_run, process)
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "nothing finished is lost" in errors
    # A worker without a node cannot answer: asked like the others, it would be waited for until it is killed.
    assert time.monotonic() - began < STOP_SECONDS
    assert gone(0)
    trials = trials_of(database_url)
    assert TrialState.RUNNING not in {trial.state for trial in trials}
    assert not any(LOST in trial.user_attrs for trial in trials)
    assert actors() == []


def test_a_killed_launcher_leaves_no_workers_on_the_nodes(cluster, database_url, tmp_path):
    """SIGKILL gives no chance to stop anyone: orphans would hold the cluster's CPUs and train for nobody."""
    process = launched(longer(mini(tmp_path, trials=50)), cluster, database_url, "--workers", "2")
    wait_for(lambda: len(workers_of()) == 2, process)
    process.kill()
    process.communicate()
    assert gone(30)


def error_of(study: Path, address: str, url: str) -> str:
    began = time.monotonic()
    process = fork("launch", study, "--engine", "ray", "--address", address, cwd=study.parent, HPO_DATABASE_URL=url)
    _, errors = process.communicate(timeout=400)
    assert process.returncode == 2, errors
    assert time.monotonic() - began < 60
    (line,) = errors.splitlines()
    assert line.startswith("error: ")
    return line


def test_no_cluster_at_the_address_is_an_error_soon(database_url, tmp_path):
    """Ray itself would wait for minutes, and say so in lines of its own."""
    line = error_of(mini(tmp_path), "127.0.0.1:1", database_url)
    assert "no Ray cluster answers at '127.0.0.1:1'" in line
    assert "ray start --head" in line


def test_a_worker_that_fits_no_node_is_refused(cluster, database_url, tmp_path):
    """Queued for a GPU that no node has, it would wait for ever."""
    study = mini(tmp_path)
    study.write_text(study.read_text().replace("seed = 3", "seed = 3\nworker_gpus = 1"))
    line = error_of(study, cluster.address, database_url)
    assert "no node of the Ray cluster fits a worker of 1 CPU and 1 GPU (nodes: 1 CPU, 0 GPU" in line


def test_without_ray_the_error_says_what_to_install(database_url, tmp_path):
    """Ray is optional: its absence must not be a traceback."""
    without = tmp_path / "without"
    without.mkdir()
    (without / "ray.py").write_text("raise ImportError('no module named ray')\n")
    run = ("launch", mini(tmp_path), "--engine", "ray", "--address", "127.0.0.1:1")
    done = hpo(*run, cwd=tmp_path, HPO_DATABASE_URL=database_url, PYTHONPATH=str(without))
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert "scenetune[ray]" in line
