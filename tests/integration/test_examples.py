"""Every example of the command line's help, run as it stands and in the order of a study's life."""

import gc
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import psutil
import pytest
import sqlalchemy as sa

import distill.export.writer as exporting
from hpo.commands.reference import example, verbs
from storage.database.embedded import EmbeddedPostgres
from studies.config.hyperparameters import Hyperparameters
from studies.training.prepare import prepare
from tests.integration.test_files_study import SMALL, STUDY
from tests.labelled import planted_texts
from tests.labelled_study import tiny_labelled_spec
from tests.mini import HPO, shell
from tests.served import export_to, untrained
from tests.synthetic import planted_dataset, tiny_encoder, write_shop

EXAMPLES = {name: example(command) for name, command in verbs().items()}
# What serves until it is interrupted; the dashboard comes last but two. `db restore` wants a home of its own.
SERVING = ("hpo serve", "hpo dashboard")
ORDER = (
    "db up, data check, baselines, adapt, launch, stop, resume, worker, status, distill, run, report, export, "
    "evaluate, recommend, similar, find, profile, classify, serve, db url, db upgrade, db backup, db restore, "
    "dashboard, delete, db down"
)
# What only the reader knows: where their database is, and their study file.
READERS = {
    " shop.toml": " studies/shop.toml",
    "postgresql://scenetune@db/scenetune": '"$(hpo db url)"',
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with a study file where the examples look for it: a planted shop, an encoder of seconds."""
    (tmp_path / "studies").mkdir()
    write_shop(planted_dataset(), tmp_path / "studies")
    text = (STUDY + SMALL.format(encoder=tiny_encoder(tmp_path / "encoder"))).replace('"shop"', '"quickstart"')
    text = text.replace('sampler = "grid"', 'sampler = "random"\ntrials = 20').replace("inner_lr = 0.1", INNER_LR)
    (tmp_path / "studies" / "quickstart.toml").write_text(text)
    (tmp_path / "studies" / "shop.toml").write_text(f"{text}\n[teacher.adapt]\nsteps = 2\nbatch_size = 8\n")
    # The files that `hpo recommend` takes are as its example shows them.
    support, users = (line.partition(": ")[2] for line in EXAMPLES["hpo recommend"][1:])
    (tmp_path / "first.jsonl").write_text(support + "\n")
    (tmp_path / "users.jsonl").write_text(users + "\n")
    pl.DataFrame({"text": ["whole milk, 1 l", "oat drink, 1 l"]}).write_csv(tmp_path / "items.csv")
    # A classifier, and the files that `hpo classify` takes.
    labels = prepare(tiny_labelled_spec(tmp_path / "encoder"), tmp_path / "cache", data=planted_texts(classes=16))
    monkeypatch.setattr(exporting, "_check_parity", lambda *_: None)  # slow, and shown elsewhere
    student = untrained(labels, Hyperparameters(learner="protonet", temperature=0.1))
    export_to(labels, student, tmp_path / "exports" / "products")
    monkeypatch.undo()
    rows = {"text": ["red kitchen lamp", "blue attic chair"], "label": ["lamps", "chairs"]}
    pl.DataFrame(rows).write_csv(tmp_path / "labelled.csv")
    pl.DataFrame({"text": ["green kitchen lamp"]}).write_csv(tmp_path / "new.csv")
    monkeypatch.setenv("PATH", f"{HPO.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("HPO_HOME", "home")
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for home in ("home", "other"):
        if (tmp_path / home).exists():
            EmbeddedPostgres(tmp_path / home).stop(force=True)


INNER_LR = "inner_lr = { low = 0.01, high = 0.5, log = true }"


def run(command: str) -> str:
    """Do what a reader does with a command of the help; return what it prints."""
    done = shell(command)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    close_connections()
    return done.stdout


def close_connections() -> None:
    """Close what a command of this process has open, as its process would at its end: `hpo db down` counts them."""
    for engine in [each for each in gc.get_objects() if issubclass(type(each), sa.Engine)]:
        engine.dispose()
    gc.collect()


def served(command: str) -> str:
    """What a command that serves prints first, before it is interrupted."""
    process = subprocess.Popen(["sh", "-c", f"exec {command}"], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    printed = process.stdout.readline()
    psutil.Process(process.pid).terminate()
    process.communicate(timeout=30)
    assert process.returncode == 0
    return printed


@pytest.mark.slow
def test_every_example_of_the_help_runs(folder: Path) -> None:
    """An example is what a newcomer copies: one that fails is worse than none."""
    order = [f"hpo {verb}" for verb in ORDER.split(", ")]
    assert sorted(order) == sorted(EXAMPLES), "every verb has its place in the story"
    for name in order:
        command = EXAMPLES[name][0]
        for theirs, ours in READERS.items():
            command = command.replace(theirs, ours)
        said = served(command) if name in SERVING else run(command)
        if name in SERVING:
            assert said.startswith("http://127.0.0.1:")
        if name == "hpo status":
            assert '"finished": true' in said
        if name == "hpo db url":
            assert "quickstart-distill" in said
    assert (folder / "exports" / "quickstart-onnx" / "onnx" / "model.onnx").is_file()
    assert (folder / "reports" / "quickstart" / "report.html").is_file()
