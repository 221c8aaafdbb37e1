"""How soon `hpo dashboard` shows a study, and what a poll costs, beside plain `optuna-dashboard`.

    python benchmarks/dashboard.py [--quick] [--json FILE]

Studies of 1,000 and 5,000 trials with three rungs and five running ones are written straight into Optuna's tables and
ours. Each program is started as a user would; its first page is there when the page, its script and the study's
trials have arrived. A page that is open asks for the study's news every ten seconds: the median of such polls.
Both programs in turn, each started anew; the processor time that the first page takes says more on a shared machine.
What writing the note and plots takes is measured beside it.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import optuna
import psutil
import sqlalchemy as sa
from rich.console import Console
from rich.table import Table

from hpo.dashboard.page import Page
from hpo.ownership import owned_search
from hpo.registry import register
from storage.database.embedded import EmbeddedPostgres
from storage.database.postgres import Database, connect
from storage.files.atomic import atomic_write
from studies.config.spec import StudySpec, parse_spec
from studies.learners.registry import RANKING_LEARNERS

# Waiting is the default configuration, which a launch queues.
RUNNING, WAITING, POLLS, PORT = 5, 1, 3, 18080
# optuna-dashboard reads trials anew when what it has is older than ten seconds.
SECONDS_BETWEEN_POLLS = 10.5
SCENES = [f"scene {number}" for number in range(38)]
RUNGS = (30, 90, 270)
FILL = """
INSERT INTO trials (number, study_id, state, datetime_start, datetime_complete)
    SELECT n, :study, CAST(CASE WHEN n % 4 = 0 THEN 'COMPLETE' ELSE 'PRUNED' END AS trialstate), now(), now()
    FROM generate_series(1, :trials) n;
INSERT INTO trials (number, study_id, state, datetime_start)
    SELECT n, :study, 'RUNNING', now() FROM generate_series(:trials + 1, :trials + :running) n;
INSERT INTO trial_intermediate_values (trial_id, step, intermediate_value, intermediate_value_type)
    SELECT trial_id, step, 0.3 + 0.1 * random(), 'FINITE' FROM trials, unnest(CAST(:rungs AS int[])) step
    WHERE study_id = :study AND (state = 'COMPLETE' OR step < 270);
INSERT INTO trial_values (trial_id, objective, value, value_type)
    SELECT trial_id, 0, intermediate_value, 'FINITE' FROM trials JOIN trial_intermediate_values USING (trial_id)
    WHERE study_id = :study AND state = 'COMPLETE' AND step = 270;
INSERT INTO trial_params (trial_id, param_name, param_value, distribution_json)
    SELECT trial_id, 'learner', number % :learners, :categories FROM trials WHERE study_id = :study;
INSERT INTO trial_params (trial_id, param_name, param_value, distribution_json)
    SELECT trial_id, name, 0.001 + random(), :uniform
    FROM trials, unnest(ARRAY['outer_lr', 'inner_lr', 'meta_batch_size', 'weight_decay']) name WHERE study_id = :study;
INSERT INTO trial_user_attributes (trial_id, key, value_json)
    SELECT trial_id, 'cost_seconds', '12.5' FROM trials WHERE study_id = :study;
INSERT INTO trial_user_attributes (trial_id, key, value_json)
    SELECT trial_id, 'reason', '"recall@10 0.3512 ranks 7 of 20 at rung 1 of 3; the top 7 are promoted"' FROM trials
    WHERE study_id = :study;
INSERT INTO scenetune_rung_result (study, trial, rung, step, recall, scene_recalls, cost_seconds)
    SELECT :name, number, rung - 1, step, intermediate_value, CAST(:scenes AS jsonb), 4 * rung
    FROM trials JOIN trial_intermediate_values USING (trial_id),
    LATERAL (SELECT array_position(CAST(:rungs AS int[]), CAST(step AS int)) AS rung) r WHERE study_id = :study;
ANALYZE
"""


def fill(database: Database, trials: int) -> tuple[StudySpec, int]:
    """Writes a study of so many ended trials; returns it with Optuna's id of it."""
    name = f"study-of-{trials}"
    spec = parse_spec({"name": name, "data": {"source": "completejourney"}, "search": {"trials": trials + RUNNING}})
    register(database, spec, "0" * 64)
    study = owned_search(database, name).open()
    distributions = optuna.distributions
    known = {
        "study": study._study_id,
        "name": name,
        "trials": trials,
        "running": RUNNING,
        "rungs": list(RUNGS),
        "learners": len(RANKING_LEARNERS),
        "categories": distributions.distribution_to_json(distributions.CategoricalDistribution(list(RANKING_LEARNERS))),
        "uniform": distributions.distribution_to_json(distributions.FloatDistribution(0.0, 2.0)),
        "scenes": json.dumps(dict.fromkeys(SCENES, 0.5)),
    }
    with database.engine.begin() as connection:
        for statement in FILL.split(";\n"):
            wanted = {key: value for key, value in known.items() if re.search(rf":{key}\b", statement)}
            connection.execute(sa.text(statement), wanted)
    return spec, study._study_id


def commands(url: str, name: str) -> dict[str, list[str]]:
    """Both programs on a study."""
    port, bin_folder = str(PORT), Path(sys.executable).parent
    return {
        "hpo dashboard": [sys.executable, "-m", "hpo", "dashboard", name, "--port", port, "--database", url],
        "optuna-dashboard": [str(bin_folder / "optuna-dashboard"), url, "--port", port, "--quiet"],
    }


@contextmanager
def running(command: list[str]) -> Iterator[psutil.Process]:
    """A program until the block's end."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ)
    try:
        yield psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait()


def fetch(path: str) -> bytes:
    """What the server answers, as soon as there is one."""
    while True:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{PORT}{path}") as answer:
                return bytes(answer.read())
        except urllib.error.URLError as error:
            if isinstance(error, urllib.error.HTTPError):
                raise
            time.sleep(0.02)


def watch(command: list[str], study: int, trials: int, polls: int) -> dict[str, float]:
    """Seconds to the first page, and of a poll."""
    started = time.perf_counter()
    with running(command) as process:
        html = fetch(f"/dashboard/studies/{study}").decode()
        for script in re.findall(r'src="(/static/[^"]+)"', html):
            fetch(script)
        assert len(json.loads(fetch(f"/api/studies/{study}"))["trials"]) == trials + RUNNING + WAITING
        found = {"first page": time.perf_counter() - started}
        found["first page, processor"] = sum(process.cpu_times()[:2])
        times = []
        for _ in range(polls):
            time.sleep(SECONDS_BETWEEN_POLLS)
            started = time.perf_counter()
            fetch(f"/api/studies/{study}?after={trials}")
            times.append(time.perf_counter() - started)
    return found | {"poll": statistics.median(times)}


def measure(database: Database, trials: int, polls: int) -> dict[str, dict[str, float]]:
    """Both programs, and the writing of the page, at one size."""
    spec, study = fill(database, trials)
    found = {}
    for name, command in commands(database.url, spec.name).items():
        found[name] = watch(command, study, trials, polls)
        print(f"{trials} trials, {name}: {found[name]}", flush=True)
    started = time.perf_counter()
    page = Page(database, spec)
    page.write()
    cold = time.perf_counter() - started
    searched = optuna.load_study(storage=database.storage, study_name=spec.name)
    searched.tell(trials + 1, state=optuna.trial.TrialState.FAIL)
    started = time.perf_counter()
    page.write()
    found["note and plots"] = {"first": cold, "again": time.perf_counter() - started}
    print(f"{trials} trials, note and plots: {found['note and plots']}", flush=True)
    return found


def main() -> None:
    """Measures both programs at all sizes."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="1,000 trials alone, one poll")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    arguments = parser.parse_args()
    sizes, polls = ([1000], 1) if arguments.quick else ([1000, 5000], POLLS)
    with tempfile.TemporaryDirectory() as folder:
        server = EmbeddedPostgres(Path(folder))
        database = connect(server.start())
        try:
            by_size = {size: measure(database, size, polls) for size in sizes}
        finally:
            database.engine.dispose()
            server.stop()
    table = Table("seconds", *(f"{size:,} trials" for size in sizes), box=None)
    for name, measures in by_size[sizes[0]].items():
        for what in measures:
            table.add_row(f"{name}, {what}", *(f"{by_size[size][name][what]:.2f}" for size in sizes))
    Console(width=120).print(table)
    if arguments.json:
        ours, peer = "hpo dashboard", "optuna-dashboard"
        rows = [
            {
                "measure": f"{what} at {size} trials",
                "ours": by_size[size][ours][what],
                "peer": peer,
                "peer_value": by_size[size][peer][what],
                "ratio": by_size[size][peer][what] / by_size[size][ours][what],
                "unit": "s",
            }
            for size in sizes
            for what in by_size[size][ours]
        ]
        atomic_write(arguments.json, json.dumps(rows, indent=2).encode())


if __name__ == "__main__":
    main()
