"""What a decision costs on PostgreSQL: `report` and `should_prune` of one of 50 running trials, by size of the study.

    python benchmarks/pruner_speed.py [--quick] [--json FILE]

Studies of 100, 1,000 and 5,000 finished trials with 20 values each are written straight into Optuna's tables, and
their rung results into ours. Each pruner then reports and decides in turn, on the same study, from a storage that has
seen the study before, as a worker's has. Ours with its tables has the rung result written before; one more line counts
that too. "Nop" is what Optuna's own report costs. Medians of single calls.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import tempfile
import time
import warnings
from pathlib import Path

import optuna
import sqlalchemy as sa
from rich.console import Console
from rich.table import Table

from hpo.search.pruner import RecallPruner
from storage.database.embedded import EmbeddedPostgres
from storage.database.postgres import Database, connect
from storage.database.records import Records, RungResult
from storage.files.atomic import atomic_write

VALUES, RUNNING, ETA = 20, 50, 3
TABLES = "ours, with its tables"
# Our rungs among the 20 steps: a factor of about three apart, the last one at the end.
RUNGS = [1, 3, 7, VALUES]
SCENES = [f"scene {number}" for number in range(38)]
FILL = """
INSERT INTO trials (number, study_id, state, datetime_start, datetime_complete)
    SELECT n, :study, 'COMPLETE', now(), now() FROM generate_series(0, :trials - 1) n;
INSERT INTO trial_values (trial_id, objective, value, value_type)
    SELECT trial_id, 0, random(), 'FINITE' FROM trials WHERE study_id = :study;
INSERT INTO trial_intermediate_values (trial_id, step, intermediate_value, intermediate_value_type)
    SELECT trial_id, step, random(), 'FINITE' FROM trials, generate_series(1, :values) step WHERE study_id = :study;
INSERT INTO scenetune_rung_result (study, trial, rung, step, recall, scene_recalls, cost_seconds)
    SELECT :name, n, rung, rung, random(), CAST(:scenes AS jsonb), 1
    FROM generate_series(0, :trials - 1) n, generate_series(0, :rungs - 1) rung;
ANALYZE
"""


def fill(database: Database, name: str, trials: int) -> None:
    """Writes a study of so many finished trials, in both sets of tables."""
    study = optuna.create_study(storage=database.storage, study_name=name, direction="maximize")
    Records(database.engine).save_study(name, {}, "")
    scenes = json.dumps(dict.fromkeys(SCENES, 0.5))
    known = {"study": study._study_id, "name": name, "trials": trials, "values": VALUES, "rungs": len(RUNGS)}
    with database.engine.begin() as connection:
        for statement in FILL.split(";"):
            wanted = {key: value for key, value in (known | {"scenes": scenes}).items() if f":{key}" in statement}
            connection.execute(sa.text(statement), wanted)


class Case:
    """One pruner on one study, with a storage of its own, as in a worker of its own."""

    def __init__(self, database: Database, study: str, name: str, pruner: optuna.pruners.BasePruner) -> None:
        self.name = name
        self._study = optuna.load_study(storage=database.storage, study_name=study, pruner=pruner)
        self._records = Records(database.engine) if name == TABLES else None
        self._trials = [self._study.ask() for _ in range(RUNNING)]
        # Each trial at each rung once: Optuna ignores what is reported again.
        self._calls = itertools.product(RUNGS[:-1], self._trials)
        self.times: list[float] = []
        self.recording: list[float] = []

    def call(self) -> None:
        """Reports and decides once."""
        step, trial = next(self._calls)
        started = time.perf_counter()
        if self._records is not None:
            recalls = dict.fromkeys(SCENES, 0.5)
            rung = RUNGS.index(step)
            self._records.record_rung(RungResult(self._study.study_name, trial.number, rung, step, 0.5, recalls, 1.0))
            self.recording.append(time.perf_counter() - started)
            started = time.perf_counter()
        trial.report(0.5, step)
        trial.should_prune()
        self.times.append(time.perf_counter() - started)

    def end(self) -> None:
        """Lets its running trials go."""
        for trial in self._trials:
            self._study.tell(trial, state=optuna.trial.TrialState.FAIL)


def pruners(database: Database) -> dict[str, optuna.pruners.BasePruner]:
    """All that are measured."""
    return {
        "Nop": optuna.pruners.NopPruner(),
        "Median": optuna.pruners.MedianPruner(),
        "SuccessiveHalving": optuna.pruners.SuccessiveHalvingPruner(),
        "Hyperband": optuna.pruners.HyperbandPruner(max_resource=VALUES),
        "Wilcoxon": optuna.pruners.WilcoxonPruner(),
        "ours, from Optuna's values": RecallPruner(RUNGS, ETA),
        TABLES: RecallPruner(RUNGS, ETA, records=Records(database.engine)),
    }


def measure(database: Database, trials: int, calls: int) -> dict[str, float]:
    """Median milliseconds of each pruner on a study of so many finished trials."""
    found = {}
    fill(database, f"study of {trials}", trials)
    for name, pruner in pruners(database).items():
        case = Case(database, f"study of {trials}", name, pruner)
        case.call()  # fills the caches, as a worker's first trial does
        case.times.clear()
        case.recording.clear()
        for _ in range(calls):
            case.call()
        case.end()
        found[name] = 1e3 * statistics.median(case.times)
        if case.recording:
            found[f"{name}, recording too"] = found[name] + 1e3 * statistics.median(case.recording)
        print(f"{trials} trials, {name}: {found[name]:.2f} ms", flush=True)
    return found


def main() -> None:
    """Measures all pruners at all sizes."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="100 and 1,000 trials, fewer calls")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    arguments = parser.parse_args()
    sizes, calls = ([100, 1000], 20) if arguments.quick else ([100, 1000, 5000], 100)
    with tempfile.TemporaryDirectory() as folder:
        server = EmbeddedPostgres(Path(folder))
        database = connect(server.start())
        try:
            by_size = {size: measure(database, size, calls) for size in sizes}
        finally:
            database.engine.dispose()
            server.stop()
    table = Table("report + should_prune, median ms", *(f"{size:,} trials" for size in sizes), box=None)
    for name in by_size[sizes[0]]:
        table.add_row(name, *(f"{by_size[size][name]:.2f}" for size in sizes))
    Console(width=120).print(table)
    if arguments.json:
        rows = [
            {
                "measure": f"report + should_prune at {size} finished trials",
                "ours": by_size[size][TABLES],
                "peer": peer,
                "peer_value": value,
                "ratio": value / by_size[size][TABLES],
                "unit": "ms",
            }
            for size in sizes
            for peer, value in by_size[size].items()
            if peer != TABLES
        ]
        atomic_write(arguments.json, json.dumps(rows, indent=2).encode())


if __name__ == "__main__":
    main()
