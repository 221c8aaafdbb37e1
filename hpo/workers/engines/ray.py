"""The Ray engine: workers on the nodes of an existing Ray cluster, each a process under an actor of its own.

The actor reserves the worker's resources; the worker is the same `hpo worker NAME` as everywhere. Every node needs
scenetune, the study's data, access to the database, and the shared artifact folder or store (docs/clusters.md).
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from sqlalchemy.engine import make_url

from hpo.workers.engines import Ended
from hpo.workers.engines.local import Process, worker_command
from hpo.workers.parent_watchdog import LAUNCHER
from storage.errors import InputError
from storage.home import home, log_folder
from studies.config.spec import StudySpec

CONNECT_SECONDS = 10.0
# Only connects, in a process of its own: Ray waits for minutes, in native code that no signal interrupts, and prints
# to stderr.
_PROBE = "import sys, ray; ray.init(address=sys.argv[1], log_to_driver=False)"
# Defaults for the workers; a node's own environment wins.
_SHARED = ("HPO_HOME", "HPO_ARTIFACTS", "HPO_CACHE_GIB")


class RayEngine:
    """Starts workers on a Ray cluster.

    Args:
        spec: The study; `search.worker_cpus` and `search.worker_gpus` say what a worker reserves, one CPU unless set.
        url: URL of the database, as every node reaches it.
        folder: Returns the name of the study's folder once it is registered.
        address: Address of the cluster; by default `$RAY_ADDRESS`, else the one that runs on this machine.

    Raises:
        InputError: Ray is not installed, the cluster does not answer, it has no node that fits a worker, or its nodes
            cannot reach the database.
    """

    def __init__(self, spec: StudySpec, url: str, folder: Callable[[], str], address: str | None = None) -> None:
        self._ray, self._spec, self._url, self._folder = _connect(address), spec, url, folder
        resources = {"CPU": spec.search.worker_cpus or 1, "GPU": spec.search.worker_gpus or 0}
        nodes = [node for node in self._ray.nodes() if node["Alive"]]
        _check_fit(nodes, resources)
        _check_database(nodes, url)
        self._actor = self._ray.remote(num_cpus=resources["CPU"], num_gpus=resources["GPU"], max_restarts=0)(Host)
        self._environment = {name: os.environ[name] for name in _SHARED if name in os.environ}
        self._environment["HPO_HOME"] = str(home())

    def start(self, number: int) -> RayWorker:
        """Start a worker where the cluster has room, or queue it there until it has."""
        actor = self._actor.remote(self._spec.name, self._folder(), number, self._spec.search.worker_cpus or 1)
        return RayWorker(self._ray, actor, actor.run.remote(self._url, self._environment))


class Host:
    """The actor on a node: starts a worker process and reports how it ended."""

    def __init__(self, name: str, folder: str, number: int, cpus: int) -> None:
        self._name, self._folder, self._number, self._cpus = name, folder, number, cpus
        self._process: Process | None = None

    def run(self, url: str, environment: dict[str, str]) -> None:
        """Start the worker process."""
        ours = environment | dict(os.environ) | {"HPO_DATABASE_URL": url, LAUNCHER: str(os.getpid())}
        os.environ["HPO_HOME"] = ours["HPO_HOME"]
        log = log_folder(self._folder) / f"worker-{self._number}.log"
        command = [*worker_command(self._name, 1), "--threads", str(self._cpus)]
        self._process = Process(command, ours, log)

    def poll(self) -> Ended | str | None:
        """Return how the worker ended; while it runs, why it waits for the database, or None."""
        assert self._process is not None
        return self._process.ended() or self._process.waiting()

    def stop(self) -> None:
        """Ask the worker to requeue its trial and to end."""
        if self._process is not None:
            self._process.stop()


class RayWorker:
    """A worker on the cluster, maybe still queued.

    Args:
        ray: The module.
        actor: Handle of its actor.
        begun: Reference to the result of the actor's `run`.
    """

    def __init__(self, ray: Any, actor: Any, begun: Any) -> None:
        self._ray, self._actor, self._queued = ray, actor, True
        self._pending = begun
        self._end: Ended | None = None
        self._waiting: str | None = None

    def ended(self) -> Ended | None:
        """Return how the worker ended; None while it runs or is queued. Never blocks: it may be a second behind."""
        if self._end is None and self._ray.wait([self._pending], timeout=0)[0]:
            self._queued = False
            if isinstance(found := self._result(), Ended):
                self._leave(found)
            else:
                self._waiting, self._pending = found, self._actor.poll.remote()
        return self._end

    def waiting(self) -> str | None:
        """Return why the worker waits for the database, as of the last answer of `ended`."""
        return self._waiting

    def stop(self) -> None:
        """Ask the worker to requeue its trial and to end; end it at once if it is still queued."""
        self.cancel_if_queued()
        if self.ended() is None:
            self._actor.stop.remote()

    def cancel_if_queued(self) -> None:
        """End the worker if it still waits for a node."""
        if self.ended() is None and self._queued:
            self._leave(Ended())

    def kill(self) -> None:
        """End the worker at once."""
        self._leave(Ended())

    def _result(self) -> Ended | str | None:
        errors = self._ray.exceptions
        try:
            answer: Ended | str | None = self._ray.get(self._pending)
        except (errors.RayActorError, errors.OutOfMemoryError) as error:
            # An actor that could not be made, as without scenetune on the node, would fail there again.
            failed = getattr(error, "actor_init_failed", False)
            return Ended(f"its Ray actor is gone: {_reason(error, last=failed)}", lost=not failed)
        except errors.RayError as error:
            return Ended(_reason(error, last=True))
        return answer

    def _leave(self, end: Ended) -> None:
        """Free the worker's place on the cluster."""
        self._end = end
        self._ray.kill(self._actor)


def _reason(error: Exception, *, last: bool) -> str:
    """Return one line of Ray's message: the last of a traceback from a node, the first of anything else."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return lines[-1 if last else 0]


def _connect(address: str | None) -> Any:
    try:
        import ray
    except ImportError as error:
        raise InputError(
            "--engine ray needs Ray, which is not installed: pip install 'scenetune[ray]', here and on every node"
        ) from error
    where = address or os.environ.get("RAY_ADDRESS") or "auto"
    if not ray.is_initialized():
        handler = signal.getsignal(signal.SIGTERM)
        try:
            _probe(where)
            ray.init(address=where, log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, ValueError, RuntimeError, OSError) as error:
            reason = " ".join(str(error).split())[:200]
            raise InputError(
                f"no Ray cluster answers at {where!r} ({reason}): start one with ray start --head, or name one with "
                "--address HOST:6379"
            ) from error
        finally:
            # Ray installs its own SIGTERM handler; here SIGTERM stops the workers in order.
            signal.signal(signal.SIGTERM, handler)
    return ray


def _probe(where: str) -> None:
    """Check that a cluster answers soon; `ray.init` reports any other fault.

    Raises:
        TimeoutError: Nothing answers.
    """
    try:
        subprocess.run([sys.executable, "-c", _PROBE, where], timeout=CONNECT_SECONDS, capture_output=True, check=False)
    except subprocess.TimeoutExpired as error:
        raise TimeoutError(f"nothing within {CONNECT_SECONDS:g} s") from error


def _check_fit(nodes: list[dict[str, Any]], wanted: dict[str, float]) -> None:
    if not any(all(node["Resources"].get(kind, 0) >= count for kind, count in wanted.items()) for node in nodes):
        has = "; ".join(", ".join(f"{node['Resources'].get(kind, 0):g} {kind}" for kind in wanted) for node in nodes)
        raise InputError(
            f"no node of the Ray cluster fits a worker of {wanted['CPU']:g} CPU and {wanted['GPU']:g} GPU "
            f"(nodes: {has}); lower search.worker_cpus or search.worker_gpus in the study file"
        )


def _check_database(nodes: list[dict[str, Any]], url: str) -> None:
    machines = {node["NodeManagerAddress"] for node in nodes}
    parsed = make_url(url)
    host = parsed.host or str(parsed.query.get("host", ""))
    if len(machines) > 1 and (not host or host.startswith("/") or host in ("localhost", "127.0.0.1", "::1")):
        raise InputError(
            f"the Ray cluster has {len(machines)} machines, and the database can be reached from this one alone; "
            "give --database the URL of a server that all of them reach"
        )
