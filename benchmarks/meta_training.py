"""Meta-training: ours against learn2learn, higher and torchopt, on the same episodes, model and adapted parameters.

    python benchmarks/meta_training.py [--quick] [--json FILE] [--results FOLDER] [--only CASE ...]

A BERT 64 wide, where starting a step costs more than computing it; MiniLM's top layers, where matrix products do; and
MiniLM as we train it (frozen layers cached, bf16 where the hardware has it) against learn2learn with all layers in its
loop, beside the validation recall that the same number of updates reaches. Outer gradients are compared first; a
difference ends the run. Systems take turns on the same meta-batches, medians are reported. Peak memory is that of one
meta-step in a process of its own, above what it held before.

Peers install in a folder of their own (`peers/environment.py`). A full run leaves a dated table in benchmarks/results/.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import torch
from peers.cases import CASES, Case, batches, problem_of, some, systems
from peers.environment import make_importable
from peers.measures import gradient_errors, peak_mib, rates, train_in_turns

from storage.files.atomic import atomic_write
from studies.episodes.episode import Episode
from studies.evaluation.evaluate import evaluate
from studies.evaluation.intervals import bootstrap
from studies.evaluation.metrics import compare
from studies.learners.base import Learner
from studies.model.device import device, fast_bf16
from studies.training.problem import Problem

Row = dict[str, Any]
RESULTS = Path(__file__).parent / "results"


def row(measure: str, unit: str, ours: float, peer: str, value: float, *, less: bool = False) -> Row:
    """One figure; its ratio is above 1 where ours is better."""
    ratio = (value / ours if less else ours / value) if ours and value else float("nan")
    print(f"{measure}: ours {ours:.4g} {unit}, {peer} {value:.4g}: {ratio:.2f}x")
    return {"measure": measure, "ours": ours, "peer": peer, "peer_value": value, "ratio": ratio, "unit": unit}


def same_model(case: Case, problem: Problem, installed: Sequence[str], quick: bool) -> list[Row]:
    """Tasks/s of ours and the peers, where all train the same."""
    contenders, drawn = systems(case, problem, installed), batches(case, training_episodes(case, problem, quick))
    # MiniLM's weights and cached activations are of too few digits for float64 to say more.
    dtype = torch.float64 if case.data == "d64" else torch.float32
    for peer, error in gradient_errors(contenders, drawn[0], dtype).items():
        print(f"{case.title}: gradients of {peer} equal ours up to {error:.1e} ({dtype})")
    found = rates(contenders, drawn, 2 if quick else 9 if case.data == "d64" else 3)
    ours = found.pop("ours")
    rows = [row(f"{case.title}: speed", "tasks/s", ours, peer, rate) for peer, rate in found.items()]
    say_target(case, rows)
    return rows


def training_episodes(case: Case, problem: Problem, quick: bool) -> list[Episode]:
    """What meta-batches are drawn from: planted episodes are small as they are."""
    return some(problem.train, quick and case.data != "d64")


def say_target(case: Case, rows: Sequence[Row]) -> None:
    if rows:
        lowest = min(row["ratio"] for row in rows)
        met = "met" if lowest >= case.target else "missed"
        print(f"{case.title}: target {case.target:g}x the fastest peer {met}: {lowest:.2f}x")


def frozen_prefix(case: Case, problem: Problem, installed: Sequence[str], quick: bool) -> list[Row]:
    """Tasks/s of meta-training with cached layers against all layers in the loop, and the recall it reaches."""
    contenders, updates = systems(case, problem, installed), 1 if quick else 4
    found = train_in_turns(contenders, training_episodes(case, problem, quick), updates)
    validation = some(problem.validation, quick, 12)
    k, names = problem.spec.protocol.k, problem.data.scenes
    recalls = {
        name: problem.evaluate(system, validation)
        if isinstance(system, Learner)
        else evaluate(system, validation, names, k)
        for name, system in contenders.items()
    }
    for name, recall in recalls.items():
        interval = bootstrap(recall.values())
        print(f"{name}: recall@{k} {interval.mean:.3f} [{interval.low:.3f}, {interval.high:.3f}], {updates} updates")
    rows = []
    for peer in (name for name in contenders if not name.startswith("ours")):
        for ours in (name for name in contenders if name.startswith("ours")):
            title, difference = f"{case.title}, {ours}", compare(recalls[ours], recalls[peer])
            rows.append(row(f"{title}: speed", "tasks/s", found[ours], peer, found[peer]))
            interval = f"difference {difference.mean:+.3f} [{difference.low:+.3f}, {difference.high:+.3f}]"
            measure = f"{title}: validation recall after {updates} updates of {case.batch} episodes, {interval}"
            rows.append(row(measure, f"recall@{k}", recalls[ours].mean(), peer, recalls[peer].mean()))
    say_target(case, [row for row in rows if row["unit"] == "tasks/s"])
    return rows


def memory(key: str, case: Case, names: Sequence[str], quick: bool) -> list[Row]:
    """Peak memory of each system in a process of its own."""
    found = {}
    for name in names:
        command = [sys.executable, __file__, "--peak", key, name, *(["--quick"] if quick else [])]
        output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        found[name] = float(output.splitlines()[-1])
    ours = [name for name in names if name.startswith("ours")]
    return [
        row(
            f"{', '.join([case.title, *mine.split(', ')[1:]])}: peak memory", "MiB", found[mine], peer, value, less=True
        )
        for mine in ours
        for peer, value in found.items()
        if peer not in ours
    ]


def hardware() -> str:
    """Where the figures are from."""
    info = Path("/proc/cpuinfo")
    model = re.search(r"model name\s*: (.+)", info.read_text()) if info.exists() else None
    parts = [
        model[1] if model else platform.processor() or platform.machine(),
        f"{os.cpu_count()} cores, {torch.get_num_threads()} threads",
        *([torch.cuda.get_device_name()] if device().type == "cuda" else []),
        f"bf16 {'used' if fast_bf16() else 'not fast here'}",
        f"torch {torch.__version__}, Python {platform.python_version()}",
    ]
    return "; ".join(parts)


def table(rows: Sequence[Row], notes: Mapping[str, str]) -> str:
    """The figures as Markdown."""
    lines = [f"# Meta-training, {date.today()}", "", *(f"{name}: {note}.  " for name, note in notes.items()), ""]
    lines += ["| measure | ours | peer | its value | unit | ratio |", "|---|---|---|---|---|---|"]
    for one in rows:
        figures = f"{one['ours']:.4g} | {one['peer']} | {one['peer_value']:.4g} | {one['unit']} | {one['ratio']:.2f}"
        lines.append(f"| {one['measure']} | {figures} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a few minutes instead of half an hour")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    parser.add_argument("--results", type=Path, metavar="FOLDER", help="write a dated table there")
    parser.add_argument("--only", nargs="+", choices=CASES, default=list(CASES), metavar="CASE", help=", ".join(CASES))
    parser.add_argument("--peak", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    installed, quick = make_importable(), arguments.quick
    cases = {key: case.quicker() if quick else case for key, case in CASES.items()}
    if arguments.peak:
        key, name = arguments.peak
        problem = problem_of(cases[key], quick)
        episodes = batches(cases[key], training_episodes(cases[key], problem, quick))[0]
        print(peak_mib(systems(cases[key], problem, installed)[name], episodes))
        return
    rows: list[Row] = []
    problems: dict[str, Problem] = {}
    for key in arguments.only:
        case = cases[key]
        problem = problems.setdefault(case.data, problems.get(case.data) or problem_of(case, quick))
        rows += (frozen_prefix if case.prefix else same_model)(case, problem, installed, quick)
        if not quick or key == arguments.only[0]:
            rows += memory(key, case, list(systems(case, problem, installed)), quick)
    if arguments.json:
        atomic_write(arguments.json, json.dumps(rows, indent=2).encode())
    if arguments.results or not quick:
        folder = arguments.results or RESULTS
        folder.mkdir(parents=True, exist_ok=True)
        atomic_write(folder / f"meta_training-{date.today()}.md", table(rows, {"Hardware": hardware()}).encode())


if __name__ == "__main__":
    main()
