"""What the ids of artifacts say, and that none can say more than it should."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from optuna.artifacts import _upload
from optuna_dashboard.artifact import _backend

from hpo import artifacts
from hpo.artifacts import Artifact, checkpoint, checkpoint_name, export, export_name, parse, report

ROOT = Path(__file__).parents[2]
# What optuna-dashboard's routes take for an id, and what its columns hold.
ROUTE, COLUMN = re.compile(r"[0-9a-fA-F-]+"), 512


@pytest.mark.parametrize("study", ["s", "shop|<b>one", "牛肉 & co", "x" * 200])
def test_ids_say_what_they_were_made_of_and_fit(study: str) -> None:
    """Ids are parsed long after they were written, by whoever serves the study then."""
    for made in (checkpoint(study, 0), checkpoint(study, 1234567), report(study), export(study, Path("/a b/c"))):
        assert parse(made.id) == made
        assert ROUTE.fullmatch(made.id)
        assert len(made.key) < COLUMN
        assert len(made.key_for(2**31 - 1)) < COLUMN


def test_an_id_that_leads_elsewhere_is_none() -> None:
    """Whoever may write to the database could have any file of this machine served."""
    elsewhere = [
        "checkpoint/../1",
        "checkpoint/.hidden/1",
        "checkpoint/a/b/1",
        "checkpoint/a/-1",
        "checkpoint/a/01",
        "checkpoint/a/1\n",
        "checkpoint/a\\b/1",
        "checkpoint//1",
        "report/a",
        "report/a/1",
        "report/a\x00/",
        "export/a/../../../../etc/passwd",
        "export/a/0123456789ABCDEF",
        "secrets/a/1",
        f"report/{'x' * 201}/",
    ]
    assert [said for said in elsewhere if parse(said.encode().hex()) is not None] == []


@pytest.mark.parametrize("written", ["", "zz", "abc", "ff", report("a").id.upper(), " " + report("a").id])
def test_what_is_not_written_as_an_id_is_none(written: str) -> None:
    """Two ids of one thing could not be told for the same."""
    assert parse(written) is None


def test_attributes_are_those_that_optuna_and_its_dashboard_read() -> None:
    """Neither would list an artifact under another name."""
    made = report("a")
    assert made.key == _upload.ARTIFACTS_ATTR_PREFIX + made.id
    assert made.key_for(7) == _backend._dashboard_artifact_prefix(7) + made.id


def test_files_are_called_what_files_may_be_called_and_exports_differ() -> None:
    """Two exports of one study would overwrite each other in the folder of downloads."""
    assert checkpoint_name(checkpoint("quickstart", 7)) == "quickstart-trial-7-checkpoint.zip"
    assert artifacts.report_name("shop|<b>one") == "shop-b-one-report.html"
    assert artifacts.report_name("牛肉") == "牛肉-report.html"
    assert artifacts.report_name("|") == "study-report.html"
    assert export_name("quickstart", Path("/exports/quickstart")) == "quickstart-export.zip"
    assert export_name("quickstart", Path("/exports/small int8")) == "quickstart-export-small-int8.zip"
    assert export("s", Path("/a")) != export("s", Path("/b"))


@pytest.mark.parametrize(
    ("code", "banned"),
    [
        (
            "import optuna; from hpo.dashboard import guard, server; "
            "server.application(optuna.storages.InMemoryStorage(), None, guard.Guard())",
            "torch matplotlib transformers sklearn pandas",
        ),
        (
            "import optuna; from hpo.results.importance import importance; s = optuna.create_study(); "
            "s.optimize(lambda trial: trial.report(trial.suggest_float('outer_lr', 0, 1), 1) or 0.0, 50); "
            "assert importance(s.get_trials(), [1])",
            "torch matplotlib sklearn pandas",
        ),
        (
            "import hpo.dashboard.downloads, storage.files.checkpoints, distill.export.manifest",
            "torch transformers",
        ),
    ],
    ids=["the server", "importance", "a download"],
)
def test_the_dashboard_does_without_torch_and_scikit_learn(code: str, banned: str) -> None:
    """It would come seconds later, and each download would take hundreds of megabytes of memory for nothing."""
    code += f"; import sys; print(set({banned.split()!r}) & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_a_kind_has_one_form() -> None:
    """The id of an artifact made by hand is refused where ours would not be written so."""
    assert parse(Artifact("checkpoint", "a").id) is None
    assert parse(Artifact("report", "a", "1").id) is None
