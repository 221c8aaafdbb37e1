"""A miniature of the quickstart: real purchases, real MiniLM, small enough for a test; and the installed `hpo`."""

import contextlib
import os
import subprocess
import sys
from pathlib import Path

from typer.testing import CliRunner

from hpo.cli import app

HPO = Path(sys.executable).parent / "hpo"
_started: list[subprocess.Popen[str]] = []

MINI = """
name = "{name}"
[data]
source = "completejourney"
max_scenes = 16
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


def mini(folder: Path, name: str = "mini", trials: int = 5, layers: str = "0", extra: str = "") -> Path:
    """Writes the miniature's study file."""
    path = folder / f"{name}.toml"
    path.write_text(MINI.format(name=name, trials=trials, layers=layers) + extra)
    return path


def hpo(*arguments: str | Path, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs the installed command as a user would."""
    return subprocess.run(
        [HPO, *map(str, arguments)], cwd=cwd, env=os.environ | environment, capture_output=True, text=True, check=False
    )


def call(*arguments: str | Path, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    """Calls the command in this process, which saves the seconds that importing takes in a new one."""
    with contextlib.chdir(cwd or Path.cwd()):
        done = CliRunner().invoke(app, [*map(str, arguments)], env=environment, catch_exceptions=False)
    return subprocess.CompletedProcess(arguments, done.exit_code, done.stdout, done.stderr)


def start(*arguments: str | Path, cwd: Path | None = None, **environment: str) -> subprocess.Popen[str]:
    """Starts the installed command without waiting for it."""
    process = subprocess.Popen(
        [HPO, *map(str, arguments)],
        cwd=cwd,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    _started.append(process)
    return process


def end_all() -> None:
    """Kills what was started and still runs: a test that failed must not take the machine from the next."""
    while _started:
        process = _started.pop()
        if process.poll() is None:
            process.kill()
            process.communicate()
