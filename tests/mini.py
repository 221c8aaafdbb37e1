"""A study of seconds: a planted shop, a BERT of random weights, searches of a few steps; and the installed `hpo`."""

import atexit
import contextlib
import functools
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from hpo.cli import app
from tests.labelled import planted_rows
from tests.synthetic import planted_dataset, tiny_encoder, write_shop

HPO = Path(sys.executable).parent / "hpo"
# Processes that run, maybe: each a `subprocess.Popen`, or a `tests.forked.Forked`.
started: list[Any] = []

# What a study reads: real purchases and the real MiniLM, or files and an encoder as small as a test needs.
REAL = """
source = "completejourney"
max_scenes = 12
min_interactions = 500
min_users = 100
min_items = 40
"""
PLANTED = """
source = "files"
interactions = "{folder}/purchases.parquet"
items = "{folder}/catalogue.csv"
user = "customer"
item = "sku"
time = "bought_at"
scene = "department"
text = "title"
max_scenes = 16
min_interactions = 100
min_users = 10
min_items = 12
[teacher]
encoder = "{folder}/encoder"
max_tokens = 16
"""
MINI = """
name = "{name}"
[data]
{source}
[protocol]
split = [0.5, 0.25, 0.25]
openings = 5
report_shots = [2]
queries = 8
train_openings = 2
train_queries = 8
[search]
trials = {trials}
seed = 3
[search.space]
learner = ["protonet", "anil", "fomaml"]
head = "all"
inner_steps = [1, 2]
meta_batch_size = 2
trainable_layers = {layers}
[pruner]
eta = 2
rungs = [2, 4]
[distill]
trials = 1
embed_steps = 4
rank_steps = 2
[distill.space]
layers = 1
"""
LABELS = """
name = "{name}"
task = "classification"
[data]
source = "files"
rows = "{folder}/feed.csv"
text = "text"
label = "label"
group = "group"
[protocol]
ways = 3
shots = 2
report_shots = [1, 2]
queries = 3
episodes = 8
train_episodes = 20
split = [0.5, 0.25, 0.25]
[teacher]
encoder = "{encoder}"
max_tokens = 16
[search]
sampler = "grid"
[search.space]
learner = ["protonet", "anil"]
outer_lr = 1e-3
meta_batch_size = 2
weight_decay = 0.05
head = "scalars"
trainable_layers = [0, 1]
inner_lr = 0.1
inner_steps = 2
support_batch_size = 16
encoder_lr = 1e-4
dropout = 0.1
label_smoothing = 0.1
temperature = 0.1
class_names = "read"
[pruner]
kind = "none"
rungs = {rungs}
[distill]
trials = 1
embed_steps = 4
rank_steps = 2
[distill.space]
layers = 1
"""


def mini(
    folder: Path, name: str = "mini", trials: int = 5, layers: str = "0", extra: str = "", *, real: bool = False
) -> Path:
    """Write the miniature's study file; return its path.

    Args:
        folder: Where.
        name: Of the study.
        trials: Of its search.
        layers: The domain of `trainable_layers`.
        extra: What stands at the end of the file.
        real: Read real purchases with the real MiniLM, which takes minutes.
    """
    path = folder / f"{name}.toml"
    source = REAL if real else PLANTED.format(folder=_planted())
    path.write_text(MINI.format(name=name, source=source, trials=trials, layers=layers) + extra)
    return path


def mini_labels(folder: Path, name: str = "labels", rungs: str = "[2, 4]") -> Path:
    """Write the study file of a miniature of classification, and its texts; return its path.

    Its grid gives every run the same trials, whatever happens to it.

    Args:
        folder: Where.
        name: Of the study.
        rungs: Of its trials.
    """
    planted_rows(classes=24, per_class=16, unlabelled=64).rows.write_csv(folder / "feed.csv")
    path = folder / f"{name}.toml"
    path.write_text(LABELS.format(name=name, folder=folder, encoder=_planted() / "encoder", rungs=rungs))
    return path


@functools.cache
def _planted() -> Path:
    """Make the planted shop's files and its encoder, once in a process; return their folder."""
    folder = Path(tempfile.mkdtemp(prefix="planted-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    write_shop(planted_dataset(scenes=16, per_user=160), folder)
    tiny_encoder(folder / "encoder")
    return folder


def hpo(*arguments: str | Path, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the installed command as a user would."""
    return subprocess.run(
        [HPO, *map(str, arguments)], cwd=cwd, env=os.environ | environment, capture_output=True, text=True, check=False
    )


def call(*arguments: str | Path, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    """Call the command in this process, which saves the seconds that importing takes in a new one."""
    with contextlib.chdir(cwd or Path.cwd()):
        done = CliRunner().invoke(app, [*map(str, arguments)], env=environment, catch_exceptions=False)
    return subprocess.CompletedProcess(arguments, done.exit_code, done.stdout, done.stderr)


def shell(command: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Do what a reader does with a command: in this process where it is a plain `hpo …`, else in a shell."""
    if command.startswith("hpo ") and not re.search(r"[$`|<>&;*\n]", command):
        return call(*shlex.split(command)[1:], cwd=cwd)
    environment = os.environ | {"PATH": f"{HPO.parent}{os.pathsep}{os.environ['PATH']}"}
    arguments = ["sh", "-e", "-c", command]
    return subprocess.run(arguments, cwd=cwd, env=environment, capture_output=True, text=True, check=False)


def start(*arguments: str | Path, cwd: Path | None = None, **environment: str) -> subprocess.Popen[str]:
    """Start the installed command without waiting for it."""
    process = subprocess.Popen(
        [HPO, *map(str, arguments)],
        cwd=cwd,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    started.append(process)
    return process


def end_all() -> None:
    """Kill what was started and still runs: a test that failed must not take the machine from the next."""
    while started:
        process = started.pop()
        if process.poll() is None:
            process.kill()
            process.communicate()
