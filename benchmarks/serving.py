"""`hpo serve`: what HTTP adds to the Python call, 64 clients at once, and memory over 100,000 requests.

    python benchmarks/serving.py [--export DIR] [--quick] [--json FILE]

The service runs as a user starts it, in a process of its own on the same machine, with a catalogue of 1,000 texts of
Complete Journey. One client asks in turn with the same call in Python: each for one user's list of ten, with a history
of twenty texts of the catalogue, or with one more that is encoded on the way. Then 64 clients ask at once, without a
pause; they take their part of the cores. Memory is the service's resident set while they send what a shop sends: lists,
vectors, scenes that are adapted anew (more than are kept), and requests that are refused.

Without --export the student is two untrained layers of the bundled MiniLM: it costs what a trained one does.
"""

from __future__ import annotations

import argparse
import http.client
import itertools
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
import torch
from adapt_and_rank import texts_of, untrained
from rich.console import Console
from rich.table import Table

from distill.inference import StudentRecommender
from hpo.serving.recommend import User, ranked
from storage.files.atomic import atomic_write

ITEMS, SHOTS, HISTORY, CLIENTS, SCENES = 1000, 5, 20, 64, 150
TARGET_MS = 2.0


@dataclass
class Client:
    """A client with a connection of its own.

    Attributes:
        url: Of the service.
        seconds: That each request took.
        statuses: How often each was answered.
    """

    url: str
    seconds: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._connection = http.client.HTTPConnection(urlsplit(self.url).netloc, timeout=120)

    def send(self, method: str, path: str, body: dict[str, Any]) -> Any:
        """Sends a request; returns what was answered."""
        started = time.perf_counter()
        content = json.dumps(body).encode()
        self._connection.request(method, path, content, {"Content-Type": "application/json"})
        response = self._connection.getresponse()
        answer = json.loads(response.read())
        self.seconds.append(time.perf_counter() - started)
        self.statuses[response.status] += 1
        return answer


@contextmanager
def service(export: Path, items: Path) -> Iterator[tuple[str, psutil.Process]]:
    """A service; yields its address and process."""
    command = [sys.executable, "-m", "hpo", "serve", str(export), "--catalogue", str(items), "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip(), psutil.Process(process.pid)
    finally:
        process.terminate()
        if (code := process.wait(60)) != 0:
            print(f"the service ended with {code}", file=sys.stderr)


def quantiles(seconds: Sequence[float]) -> dict[str, float]:
    cuts = statistics.quantiles(seconds, n=100)
    return {"p50_ms": 1e3 * cuts[49], "p99_ms": 1e3 * cuts[98]}


def side_by_side(name: str, http_call: Callable[[], Any], python_call: Callable[[], Any], times: int) -> dict[str, Any]:
    """What one client waits for, over HTTP and in Python, in turn."""
    found: dict[str, list[float]] = {"http": [], "python": []}
    for turn in range(times + 20):
        for kind, work in (("http", http_call), ("python", python_call)):
            started = time.perf_counter()
            work()
            if turn >= 20:
                found[kind].append(time.perf_counter() - started)
    over, plain = quantiles(found["http"]), quantiles(found["python"])
    added = 1e3 * statistics.median(a - b for a, b in zip(found["http"], found["python"], strict=True))
    return {
        "measure": f"what HTTP adds at one client, {name}",
        "ours": over["p50_ms"],
        "peer": "the call in Python",
        "peer_value": plain["p50_ms"],
        "ratio": over["p50_ms"] / plain["p50_ms"],
        "unit": "ms",
        "added_ms": added,
        "target_ms": TARGET_MS,
        "p99_ms": over["p99_ms"],
        "python_p99_ms": plain["p99_ms"],
    }


def at_once(url: str, requests: int, one: Callable[[Client, random.Random], Any]) -> tuple[dict[str, Any], float]:
    """Many clients without a pause: their figures, and the seconds in all."""
    clients = [Client(url) for _ in range(CLIENTS)]

    def work(number: int) -> None:
        generator = random.Random(number)
        for _ in range(requests // CLIENTS):
            one(clients[number], generator)

    started = time.perf_counter()
    with ThreadPoolExecutor(CLIENTS) as pool:
        list(pool.map(work, range(CLIENTS)))
    took = time.perf_counter() - started
    seconds = list(itertools.chain.from_iterable(client.seconds for client in clients))
    statuses = sum((client.statuses for client in clients), Counter[int]())
    return {**quantiles(seconds), "requests": len(seconds), "statuses": dict(sorted(statuses.items()))}, took


def shop_day(texts: Sequence[str]) -> Callable[[Client, random.Random], Any]:
    """One request of a shop: mostly lists; vectors, scenes adapted anew, mistakes."""

    def one(client: Client, generator: random.Random) -> None:
        kind, scene = generator.random(), f"scene-{generator.randrange(SCENES)}"
        some = generator.sample(texts, HISTORY)
        if kind < 0.05:
            support = [{"history": some, "item": item} for item in generator.sample(texts, SHOTS)]
            client.send("PUT", f"/scenes/{scene}", {"support": support})
        elif kind < 0.15:
            client.send("POST", "/embed", {"texts": [f"{some[0]}, {generator.random():.6f}"]})
        elif kind < 0.2:
            client.send("POST", "/scenes/scene-0/rank", {"users": [{"history": [""]}]})
        else:  # 404 where the scene is not kept
            client.send("POST", f"/scenes/{scene}/rank", {"users": [{"history": some}]})

    return one


def measure(export: Path, texts: list[str], quick: bool) -> Iterator[dict[str, Any]]:
    """All figures of an export."""
    generator = random.Random(0)
    support = [(generator.sample(texts, HISTORY), item) for item in generator.sample(texts, SHOTS)]
    history = generator.sample(texts, HISTORY)
    student = StudentRecommender.load(export)
    catalogue = student.catalogue(texts)
    scene = catalogue.adapt(support)
    with tempfile.TemporaryDirectory() as folder:
        items = Path(folder) / "items.txt"
        items.write_text("\n".join(texts) + "\n")
        with service(export, items) as (url, process):
            client, times, numbers = Client(url), 200 if quick else 1000, itertools.count()
            body = {"support": [{"history": past, "item": item} for past, item in support]}
            client.send("PUT", "/scenes/a", body)
            known, unknown = [history], lambda: [*history, f"a new item, no. {next(numbers)}"]
            yield side_by_side(
                "a list of ten",
                lambda: client.send("POST", "/scenes/a/rank", {"users": [{"history": history}]}),
                lambda: ranked(scene, [User(None, past) for past in known], 10),
                times,
            )
            yield side_by_side(
                "a list, one unknown item",
                lambda: client.send("POST", "/scenes/a/rank", {"users": [{"history": unknown()}]}),
                lambda: ranked(scene, [User(None, unknown())], 10),
                times,
            )
            yield side_by_side(
                "a vector",
                lambda: client.send("POST", "/embed", {"texts": [f"a new item, no. {next(numbers)}"]}),
                lambda: student.embed([f"a new item, no. {next(numbers)}"]).tolist(),
                times,
            )
            yield side_by_side(
                "adapting",
                lambda: client.send("PUT", "/scenes/a", body),
                lambda: catalogue.adapt(support),
                times // 4,
            )
            yield from under_load(url, process, texts, quick)


def under_load(url: str, process: psutil.Process, texts: list[str], quick: bool) -> Iterator[dict[str, Any]]:
    """Many clients, and memory."""
    numbers = itertools.count()

    def one(client: Client, generator: random.Random) -> None:
        past = [*generator.sample(texts, HISTORY), f"another item, no. {next(numbers)}"]
        client.send("POST", "/scenes/a/rank", {"users": [{"history": past}]})

    figures, took = at_once(url, 1280 if quick else 12_800, one)
    sent = Client(url)
    sent._connection.request("GET", "/metrics")
    lines = sent._connection.getresponse().read().decode().splitlines()
    metrics = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    calls, batches = (float(metrics[f"hpo_serve_batch_requests_{name}"]) for name in ("sum", "count"))
    yield {
        "measure": f"{CLIENTS} clients, a list with one unknown item each",
        "ours": figures["requests"] / took,
        "peer": None,
        "peer_value": None,
        "ratio": None,
        "unit": "requests/s",
        "errors": sum(count for status, count in figures["statuses"].items() if status != 200),
        "calls_per_batch": calls / batches,
        **figures,
    }
    total, parts = (5_120, 4) if quick else (102_400, 10)
    one_of_many, resident, statuses = shop_day(texts), [process.memory_info().rss / 2**20], Counter[int]()
    started, files = time.perf_counter(), []
    for _ in range(parts):
        figures, _ = at_once(url, total // parts, one_of_many)
        statuses += Counter(figures["statuses"])
        resident.append(process.memory_info().rss / 2**20)
        files.append((process.num_threads(), process.num_fds()))
    yield {
        "measure": f"resident memory after {total:,} requests",
        "ours": resident[-1],
        "peer": f"after {total // parts:,}",
        "peer_value": resident[1],
        "ratio": resident[-1] / resident[1],
        "unit": "MiB",
        "resident": [round(value, 1) for value in resident],
        "threads_and_files": files,
        "statuses": dict(sorted(statuses.items())),
        "errors": sum(count for status, count in statuses.items() if status >= 500),
        "requests_per_second": total / (time.perf_counter() - started),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--export", type=Path, metavar="DIR", help="an exported recommender; else an untrained one")
    parser.add_argument("--quick", action="store_true", help="a minute: fewer requests")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    arguments = parser.parse_args()
    if "OMP_WAIT_POLICY" not in os.environ:
        # As `hpo` does, for the calls in Python; torch has been loaded without it here.
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | {"OMP_WAIT_POLICY": "PASSIVE"})
    rows = []
    table = Table("measure", "here", "beside", "unit", "further", box=None)
    console = Console(width=200)
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.export or untrained(Path(scratch))
        texts = texts_of(None if arguments.export else Path(scratch))
        for row in measure(folder, texts[:: len(texts) // ITEMS][:ITEMS], arguments.quick):
            rows.append(row)
            beside = "" if row["peer"] is None else f"{row['peer_value']:.2f} ({row['peer']})"
            known = ("measure", "ours", "peer", "peer_value", "ratio", "unit")
            further = {key: round(v, 2) if isinstance(v, float) else v for key, v in row.items() if key not in known}
            table.add_row(row["measure"], f"{row['ours']:.2f}", beside, row["unit"], json.dumps(further))
    console.print(table)
    console.print(f"torch {torch.__version__}, {torch.get_num_threads()} threads here and in the service")
    if arguments.json:
        atomic_write(arguments.json, json.dumps(rows, indent=2).encode())


if __name__ == "__main__":
    main()
