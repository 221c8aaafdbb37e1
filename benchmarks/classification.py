"""Classification against SetFit and against transformers' Trainer, on Complete Journey's products.

    python benchmarks/classification.py [--quick] [--peers] [--only new|known] [--folder DIR] [--json FILE]
    python benchmarks/classification.py --export DIR [--shots K ...] [--peers] ...    an export of the study alone

New classes: 10-way episodes of test classes at 1, 5 and 20 shots, the same for every system; support and query of a
class hold different types of product. Ours: the best trial of the search of studies/products.toml, of the same search
without the names of the classes, of plain fine-tuning and of ridge, each at as many CPU seconds as the first, and the
exported student of the first. Beside them the frozen encoder with centroids and with logistic regression, and SetFit at
its documented defaults and tuned. All choices are made on validation episodes. Differences are paired bootstraps over
episodes. Seconds to adapt lead from labelled texts to what can classify, without loading a model; ours are in fp32,
SetFit's in bf16 where the CPU is faster so.

Known classes: our search and the Trainer's `hyperparameter_search` of `BertForSequenceClassification` from the same
encoder, at as many CPU seconds, on the same rows.

With --folder, what was recorded there is not done again: a run that is cut off continues. --peers needs setfit and
accelerate, which are no dependencies: pip install setfit==1.2.0
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import warnings
from collections.abc import Sequence
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path

import optuna
import torch
from classifiers import known_classes, new_classes
from classifiers.comparison import compared, show

from storage.files.atomic import atomic_write


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a few minutes: short searches, few episodes")
    parser.add_argument("--peers", action="store_true", help="SetFit and the Trainer too: hours on two cores")
    parser.add_argument("--only", choices=["new", "known"], help="one of the two parts")
    parser.add_argument("--study", type=Path, default=Path("studies/products.toml"), help="of the new classes")
    parser.add_argument("--export", type=Path, help="an exported student of the study; instead of all searches")
    parser.add_argument("--shots", type=int, nargs="+", default=[1, 5, 20], help="of the new classes; ascending")
    parser.add_argument("--episodes", type=int, default=30, help="of the test, at each number of shots")
    parser.add_argument("--budget", type=float, default=150, help="CPU seconds of each search of known classes")
    parser.add_argument("--folder", type=Path, help="keeps searches and records; a temporary one if left out")
    parser.add_argument("--so-far", action="store_true", help="compare what --folder has of the new classes, and end")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    chosen = parser.parse_args(arguments)
    if chosen.peers and (missing := [name for name in ("setfit", "accelerate") if find_spec(name) is None]):
        sys.exit(f"--peers: {missing[0]} is not installed; run: pip install setfit==1.2.0")
    if torch.get_num_threads() > 1:
        print("CPU seconds are more exact with OMP_NUM_THREADS=1, beside other work above all.")
    rows: list[dict[str, object]] = []
    with ExitStack() as stack:
        folder = chosen.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        if chosen.only != "known":
            if not chosen.so_far:
                episodes = 10 if chosen.quick else chosen.episodes
                setup = new_classes.setup(chosen.study, folder / "new", chosen.shots, episodes, quick=chosen.quick)
                new_classes.run(setup, chosen.export, peers=chosen.peers)
            rows += compared(new_classes.records(folder / "new"), new_classes.COMPARED)
        if chosen.only != "new" and chosen.export is None and not chosen.so_far:
            budget = 10.0 if chosen.quick else chosen.budget
            rows += known_classes.run(folder / "known", budget, quick=chosen.quick, peers=chosen.peers)
    show(rows)
    if chosen.json:
        atomic_write(chosen.json, json.dumps(rows, indent=2).encode())


if __name__ == "__main__":
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    main()
