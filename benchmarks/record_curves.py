"""Records what the pruner is judged on: configurations of the shipped search space, trained to the end without pruning.

    python benchmarks/record_curves.py [--quick] [--configurations N] [--part I/N] [--out FILE]

Configurations are drawn at random, by number, from the space of studies/completejourney.toml with the encoder frozen
(`trainable_layers = 0`: seconds a trial instead of an hour) and without the number of products per text
(`protocol.products = false`: with it most configurations lie within noise, docs/decisions.md). Left out are maml,
metasgd and reptile at 16 episodes per update, which take minutes each. Each is trained by the production path,
`studies.training.objective.run_trial`, to every rung; what it cost is measured there.

One row per configuration and evaluation: `part` is "validation" at a rung, and at the end "redrawn" (the validation
scenes with other openings and users) and "test". The parquet's metadata holds the scenes, the study and the recipe.
An interrupted recording goes on where it stopped; `--part 1/2` and `--part 2/2` share the work between two processes
and the last one to finish writes the file.
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
from studies.config.spec import StudySpec, load_spec
from studies.training.objective import load_teacher, run_trial
from studies.training.prepare import prepare
from studies.training.rungs import RungReport

RUNGS = [6, 18, 54, 162]
SEED = 20261125
COSTLY = ("maml", "metasgd", "reptile")
OUT, QUICK_OUT = Path("benchmarks/curves/completejourney.parquet"), Path("build/curves.parquet")


@dataclass(frozen=True)
class Row:
    """One evaluation of one configuration; costs are cumulative seconds of the configuration."""

    configuration: int
    learner: str
    parameters: str
    part: str
    rung: int
    updates: int
    training_seconds: float
    evaluation_seconds: float
    scene_recalls: list[float]


def recipe(quick: bool) -> StudySpec:
    """The study whose configurations are recorded."""
    spec = load_spec(Path("studies", "quickstart.toml" if quick else "completejourney.toml"))
    shipped = load_spec(Path("studies/completejourney.toml"))
    space = {name: domain for name, domain in shipped.search.space.items() if name not in ENCODER}
    search = SearchSection(
        space=space | {"trainable_layers": 0}, learners=shipped.search.learners, trials=1, seed=SEED % 1000
    )
    return spec.model_copy(
        update={
            "search": search,
            "protocol": spec.protocol.model_copy(update={"products": False}),
            "pruner": spec.pruner.model_copy(update={"rungs": [1, 3] if quick else RUNGS}),
        }
    )


def configuration(search: SearchSection, number: int) -> Hyperparameters:
    """The configuration of a number, the same in every process: the first of its draws that is not too costly."""
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=SEED + number))
    while True:
        values = suggest(study.ask(), search)
        if not (values.learner in COSTLY and values.meta_batch_size == 16):
            return values


class Recorder:
    """Trains and evaluates configurations of one study.

    Attributes:
        scenes: names of each part's scenes, in the order of the recalls.
    """

    def __init__(self, spec: StudySpec) -> None:
        self._problem = prepare(spec, cache_folder())
        self._at_the_end = {"redrawn": self._problem.redrawn("validation", 1), "test": self._problem.test}
        names = self._problem.data.scenes
        parts = {"validation": self._problem.validation} | self._at_the_end
        self.scenes = {part: sorted({names[e.scene] for e in episodes}) for part, episodes in parts.items()}
        # What only the first configuration would pay for.
        self._problem.evaluate(self._problem.learner(configuration(spec.search, 0)), self._problem.validation[:8])
        len(self._problem.train)

    def record(self, number: int) -> list[Row]:
        """The rows of one configuration."""
        values = configuration(self._problem.spec.search, number)
        row = partial(Row, number, values.learner, json.dumps(values.to_dict()))
        rows: list[Row] = []
        training = done = 0.0

        def report(reached: RungReport) -> None:
            nonlocal training, done
            training += reached.seconds_per_update * (reached.step - done)
            done = reached.step
            recalls = [reached.scene_recalls.get(name, math.nan) for name in self.scenes["validation"]]
            rows.append(
                row("validation", reached.rung, reached.step, training, reached.cost_seconds - training, recalls)
            )

        with tempfile.TemporaryDirectory() as folder:
            run_trial(self._problem, values, Path(folder, "trial"), report)
            if any(map(math.isnan, rows[-1].scene_recalls)):
                return rows  # diverged: nothing to evaluate
            learner = load_teacher(self._problem, Path(folder, "trial"))
        for part, episodes in self._at_the_end.items():
            started = time.perf_counter()
            found = self._problem.evaluate(learner, episodes).scenes
            recalls = [found[name].recall for name in self.scenes[part]]
            rows.append(row(part, rows[-1].rung, int(done), training, time.perf_counter() - started, recalls))
        return rows


def write(spec: StudySpec, parts: list[dict[str, Any]], out: Path) -> None:
    """All configurations as one parquet, with its recipe."""
    rows = [row for part in parts for row in part["rows"]]
    table = pa.table({name: [row[name] for row in rows] for name in Row.__dataclass_fields__})
    floats = pa.list_(pa.float32())
    place = table.schema.get_field_index("scene_recalls")
    table = table.set_column(place, "scene_recalls", table["scene_recalls"].cast(floats))
    about = {
        "scenes": parts[0]["scenes"],
        "spec": spec.model_dump(mode="json"),
        "seed": SEED,
        "command": "python benchmarks/record_curves.py",
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


def main() -> None:
    """Records, or goes on recording."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="four configurations on the quickstart's scenes")
    parser.add_argument("--configurations", type=int, default=200, metavar="N")
    parser.add_argument("--part", default="1/1", metavar="I/N", help="record the I-th of N shares")
    parser.add_argument("--out", type=Path, metavar="FILE", help="written when all shares are done")
    arguments = parser.parse_args()
    share, shares = map(int, arguments.part.split("/"))
    torch.set_num_threads(max(1, torch.get_num_threads() // shares))
    count = 4 if arguments.quick else arguments.configurations
    out = arguments.out or (QUICK_OUT if arguments.quick else OUT)
    spec = recipe(arguments.quick)
    recorder, drafts = Recorder(spec), out.with_suffix(".parts")
    drafts.mkdir(parents=True, exist_ok=True)
    for number in range(share - 1, count, shares):
        draft = drafts / f"{number}.json"
        if draft.exists():
            continue
        started = time.perf_counter()
        rows = [asdict(row) for row in recorder.record(number)]
        atomic_write(draft, json.dumps({"scenes": recorder.scenes, "rows": rows}).encode())
        spent = time.perf_counter() - started
        print(f"{number}: {rows[0]['learner']}, {spent:.1f} s", file=sys.stderr, flush=True)
    found = sorted(drafts.glob("*.json"), key=lambda path: int(path.stem))
    if len(found) == count:
        write(spec, [json.loads(path.read_text()) for path in found], out)
        shutil.rmtree(drafts)


if __name__ == "__main__":
    main()
