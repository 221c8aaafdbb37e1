"""Records what the pruner is judged on: configurations of a wide search space, trained to the end without pruning.

    python benchmarks/record_curves.py [--study studies/products.toml] [--trained] [--quick] [--configurations N]
        [--part I/N] [--out FILE] [--so-far]

Configurations are drawn at random, by number. Each is trained by the production path,
`studies.training.objective.run_trial`, to every rung. What it costs is measured there, in CPU seconds, so that other
work on the machine counts as little as it can.

- Ranking: the space of studies/completejourney.toml, whatever the study, with the encoder frozen (`trainable_layers =
  0`: seconds a trial instead of an hour) and without the number of products per text (`protocol.products = false`: with
  it most configurations lie within noise, docs/decisions.md). With --trained one or two layers of the encoder train,
  for a third of the updates, since a configuration takes minutes: recorded on the scenes of studies/quickstart.toml.
- Classification: the default space, which a study file without `[search.space]` has: all learners, none to all layers
  of the encoder, rates over four decades.

Left out are configurations that take many minutes each (`too_costly`).

One row per configuration and evaluation: `part` is "validation" at a rung, and at the end "redrawn" (the validation
scenes with other openings and users, or other episodes) and "test". The parquet's metadata holds the scenes, the study
and the recipe. An interrupted recording continues where it stopped; `--part 1/2` and `--part 2/2` share the work
between two processes and the last one to finish writes the file. `--so-far` writes what there is, and records nothing;
configurations that the file holds are not recorded again.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import optuna
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from hpo.search.space import suggest
from storage.files.atomic import atomic_write
from storage.home import cache_folder
from studies.config.hyperparameters import ENCODER, Hyperparameters
from studies.config.search_section import SearchSection
from studies.config.spec import StudySpec, load_spec, parse_spec
from studies.training.objective import load_teacher, run_trial
from studies.training.prepare import prepare
from studies.training.rungs import RungReport

RUNGS = {"ranking": [6, 18, 54, 162], "ranking, trained": [2, 6, 18, 54], "classification": [3, 6, 12, 24, 48]}
SEED = 20261125
# Whose search space ranking configurations are drawn from, whatever the study.
WIDE = Path("studies/completejourney.toml")
COSTLY = ("maml", "metasgd", "reptile")
MOST_LAYERS = 24


@dataclass(frozen=True)
class Row:
    """One evaluation of one configuration; costs are cumulative CPU seconds of the configuration."""

    configuration: int
    learner: str
    parameters: str
    part: str
    rung: int
    updates: int
    training_seconds: float
    evaluation_seconds: float
    scene_recalls: list[float]


def recipe(path: Path, quick: bool, trained: bool) -> StudySpec:
    """The study whose configurations are recorded."""
    shipped = load_spec(path)
    if shipped.task == "classification":
        return classification_recipe(shipped, quick)
    wide = load_spec(WIDE).search
    space = {name: domain for name, domain in wide.space.items() if trained or name not in ENCODER}
    search = SearchSection(
        space=space | {"trainable_layers": [1, 2] if trained else 0},
        learners=wide.learners,
        trials=1,
        seed=SEED % 1000,
    )
    rungs = RUNGS["ranking, trained" if trained else "ranking"]
    return shipped.model_copy(
        update={
            "search": search,
            "protocol": shipped.protocol.model_copy(update={"products": False}),
            "pruner": shipped.pruner.model_copy(update={"rungs": [1, 3] if quick else rungs}),
        }
    )


def classification_recipe(shipped: StudySpec, quick: bool) -> StudySpec:
    """The study with the default search space, and with few episodes if `quick`."""
    raw = shipped.model_dump(mode="json")
    raw["search"] = {"trials": 1, "seed": SEED % 1000}
    raw["pruner"] = {"rungs": [1, 3] if quick else RUNGS["classification"]}
    if quick:
        raw["protocol"] |= {"episodes": 10, "train_episodes": 50}
    return parse_spec(raw)


def too_costly(values: Hyperparameters, task: str) -> bool:
    """Whether a configuration takes many minutes, which a recording of hundreds cannot spend."""
    if values.learner in COSTLY and values.meta_batch_size == 16:
        return True
    if task == "ranking" and values.trainable_layers and values.entry.adapts_encoder:
        return True  # every opening of every scene adapts the encoder anew, and encodes the scene's items
    # Layers that train, in every episode of an update; where episodes adapt them, for every step, in evaluations too.
    steps = 4 * (values.inner_steps or 0) if values.entry.adapts_encoder else 0
    second = 2 if values.entry.needs_eager_attention else 1
    return second * values.trainable_layers * max(values.meta_batch_size, steps) > MOST_LAYERS


def configuration(spec: StudySpec, number: int) -> Hyperparameters:
    """The configuration of a number, the same in every process: the first of its draws that is not too costly."""
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=SEED + number))
    while too_costly(values := suggest(study.ask(), spec.search), spec.task):
        pass
    return values


class Recorder:
    """Trains and evaluates configurations of one study.

    Attributes:
        scenes: names of each part's scenes, in the order of the recalls.
    """

    def __init__(self, spec: StudySpec) -> None:
        self._problem = prepare(spec, cache_folder())
        self._at_the_end = {"redrawn": self._problem.redrawn("validation", 1), "test": self._problem.test}
        name = self._problem.scene_name
        parts = {"validation": self._problem.validation} | self._at_the_end
        self.scenes = {part: sorted({name(episode) for episode in episodes}) for part, episodes in parts.items()}
        # What only the first configuration would pay for.
        self._problem.evaluate(self._problem.learner(configuration(spec, 0)), self._problem.validation[:8])
        len(self._problem.train)

    def record(self, number: int) -> list[Row]:
        """The rows of one configuration."""
        values = configuration(self._problem.spec, number)
        row = partial(Row, number, values.learner, json.dumps(values.to_dict()))
        rows: list[Row] = []
        training = evaluating = wall = 0.0
        done, started = 0, time.process_time()

        def report(reached: RungReport) -> None:
            nonlocal training, evaluating, wall, done, started
            # What a rung took on the clock, divided between training and evaluation, says how to divide its CPU time.
            spent, part = time.process_time() - started, reached.seconds_per_update * (reached.step - done)
            trained = spent * part / (reached.cost_seconds - wall)
            training, evaluating = training + trained, evaluating + spent - trained
            recalls = [reached.scene_recalls.get(name, math.nan) for name in self.scenes["validation"]]
            rows.append(row("validation", reached.rung, reached.step, training, evaluating, recalls))
            wall, done, started = reached.cost_seconds, reached.step, time.process_time()

        with tempfile.TemporaryDirectory() as folder:
            run_trial(self._problem, values, Path(folder, "trial"), report)
            if any(map(math.isnan, rows[-1].scene_recalls)):
                return rows  # diverged: nothing to evaluate
            learner = load_teacher(self._problem, Path(folder, "trial"))
        for part, episodes in self._at_the_end.items():
            started = time.process_time()
            found = self._problem.evaluate(learner, episodes).scenes
            recalls = [found[name].recall for name in self.scenes[part]]
            rows.append(row(part, rows[-1].rung, done, training, time.process_time() - started, recalls))
        return rows


def write(spec: StudySpec, options: str, parts: list[dict[str, Any]], out: Path) -> None:
    """Configurations as one parquet, with its recipe."""
    rows = [row for part in parts for row in part["rows"]]
    table = pa.table({name: [row[name] for row in rows] for name in Row.__dataclass_fields__})
    floats = pa.list_(pa.float32())
    place = table.schema.get_field_index("scene_recalls")
    table = table.set_column(place, "scene_recalls", table["scene_recalls"].cast(floats))
    raw = spec.model_dump(mode="json")
    for key in spec.data.paths:  # where they were is nobody's business
        raw["data"][key] = [Path(path).name for path in raw["data"][key] or []] or None
    about = {
        "scenes": parts[0]["scenes"],
        "spec": raw,
        "seed": SEED,
        "command": f"python benchmarks/record_curves.py {options}",
        "recorded": datetime.now(UTC).date().isoformat(),
        "hardware": f"{platform.machine()}, {torch.get_num_threads()} thread(s) per process",
        "torch": torch.__version__,
        "optuna": optuna.__version__,
    }
    sink = pa.BufferOutputStream()
    pq.write_table(table.replace_schema_metadata({"scenetune": json.dumps(about)}), sink, compression="zstd")
    out.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(out, sink.getvalue().to_pybytes())
    print(f"{out}: {len(parts)} configurations, {out.stat().st_size / 1e3:.0f} kB")


def drafts_of(out: Path) -> Path:
    """The folder of a recording's configurations, one JSON file each, until all are there."""
    return out.with_suffix(".parts")


def unpack(out: Path) -> None:
    """Put the configurations that `out` holds back into the folder of drafts."""
    table = pq.read_table(out)
    scenes = json.loads(table.schema.metadata[b"scenetune"])["scenes"]
    by_number: dict[int, list[dict[str, Any]]] = {}
    for row in table.to_pylist():
        by_number.setdefault(row["configuration"], []).append(row)
    for number, rows in by_number.items():
        draft = drafts_of(out) / f"{number}.json"
        if not draft.exists():
            atomic_write(draft, json.dumps({"scenes": scenes, "rows": rows}).encode())


def main() -> None:
    """Record, or continue to record."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--study", type=Path, default=Path("studies/completejourney.toml"), metavar="FILE")
    parser.add_argument("--trained", action="store_true", help="of ranking: layers of the encoder train")
    parser.add_argument("--quick", action="store_true", help="four configurations, few updates")
    parser.add_argument("--configurations", type=int, default=200, metavar="N")
    parser.add_argument("--part", default="1/1", metavar="I/N", help="record the I-th of N shares")
    parser.add_argument("--out", type=Path, metavar="FILE", help="by default benchmarks/curves/<study>.parquet")
    parser.add_argument("--so-far", action="store_true", help="record nothing, write what there is")
    arguments = parser.parse_args()
    share, shares = map(int, arguments.part.split("/"))
    torch.set_num_threads(max(1, torch.get_num_threads() // shares))
    count = 4 if arguments.quick else arguments.configurations
    folder = Path("build" if arguments.quick else "benchmarks", "curves")
    kind = "-trained" if arguments.trained else ""
    out = arguments.out or folder / f"{arguments.study.stem}{kind}.parquet"
    spec, drafts = recipe(arguments.study, arguments.quick, arguments.trained), drafts_of(out)
    drafts.mkdir(parents=True, exist_ok=True)
    if out.exists():
        unpack(out)
    if not arguments.so_far:
        record(spec, drafts, range(share - 1, count, shares))
    found = sorted(drafts.glob("*.json"), key=lambda path: int(path.stem))
    if arguments.so_far or len(found) == count:
        options = f"--study {arguments.study.name if arguments.study.is_absolute() else arguments.study}"
        options += " --trained" if arguments.trained else ""
        write(spec, options, [json.loads(path.read_text()) for path in found], out)
    if len(found) == count:
        shutil.rmtree(drafts)


def record(spec: StudySpec, drafts: Path, numbers: Iterable[int]) -> None:
    """Record the configurations of these numbers that have no draft."""
    recorder = Recorder(spec)
    for number in numbers:
        draft = drafts / f"{number}.json"
        if draft.exists():
            continue
        started = time.perf_counter()
        rows = [asdict(row) for row in recorder.record(number)]
        atomic_write(draft, json.dumps({"scenes": recorder.scenes, "rows": rows}).encode())
        spent = time.perf_counter() - started
        print(f"{number}: {rows[0]['learner']}, {spent:.1f} s", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
