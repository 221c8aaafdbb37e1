"""The command line as a user meets it: help, mistakes, exit codes."""

import json
import subprocess
import sys
import time

import pytest

from hpo.registry import register
from hpo.workers.engines.local import LocalEngine
from storage.database.control import Control
from storage.database.postgres import connect, create_engine
from studies.config.spec import load_spec
from tests.mini import call, hpo, mini

pytestmark = pytest.mark.usefixtures("shared_caches")


@pytest.fixture(autouse=True)
def _test_database(database_url, monkeypatch):
    """No command of these tests may start an embedded server that nobody stops."""
    monkeypatch.setenv("HPO_DATABASE_URL", database_url)


def test_help_loads_neither_torch_nor_optuna():
    """A slow --help is the first thing a user meets."""
    code = (
        "import sys; sys.argv = ['hpo', '--help']\n"
        "from hpo.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print([m for m in ('torch', 'optuna', 'transformers', 'sqlalchemy', 'polars', 'fastapi') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def bad(tmp_path, change, *command, real=False):
    """Return the one error line of a command on a miniature changed by (old, new)."""
    if not command:
        study = mini(tmp_path, real=real)
        assert change[0] in study.read_text()
        study.write_text(study.read_text().replace(*change))
        command = ("launch", study)
    done = call(*command, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    return lines[0]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("trials = 5", "trails = 5"), ["'trails'", "[search]", "'trials'"]),
        (("inner_steps = [1, 2]", "inner_step = [1, 2]"), ["'inner_step'", "'inner_steps'"]),
        (("trials = 5", 'trials = "five"'), ["search.trials", "'five'"]),
        (("inner_steps = [1, 2]", "inner_steps = []"), ["inner_steps", "empty"]),
        (("inner_steps = [1, 2]", "inner_steps = { low = 3, high = 1 }"), ["low = 3", "high = 1"]),
        (("eta = 2", "eta = 1"), ["pruner.eta", "1"]),
        (('"anil"', '"anli"'), ["'anli'", "'anil'"]),
    ],
)
def test_a_mistake_in_the_study_file_is_named_with_what_is_accepted(tmp_path, change, words):
    """A mistake must be found before any work, and its message must be enough to mend it."""
    line = bad(tmp_path, change)
    for word in words:
        assert word in line


def test_an_empty_search_space_is_refused(tmp_path):
    """It would run the same trial over and over."""
    study = mini(tmp_path)
    text = study.read_text()
    begin, end = text.index("learner ="), text.index("[pruner]")
    study.write_text(text[:begin] + text[end:])
    assert "search space is empty" in bad(tmp_path, None, "launch", study)


def test_filters_that_leave_too_few_scenes_are_refused(tmp_path):
    """Three scenes make a recall that means nothing."""
    assert "meta-train, which needs at least 4" in bad(tmp_path, ("max_scenes = 16", "max_scenes = 6"))
    assert "min_items" in bad(tmp_path, ("min_items = 12", "min_items = 100000"))


def test_an_unreachable_database_is_named_without_its_password(tmp_path):
    """Passwords end up in logs and screenshots."""
    study = mini(tmp_path)
    url = "postgresql://me:s3cret@127.0.0.1:1/nothing"
    line = bad(tmp_path, None, "launch", study, "--database", url)
    assert "s3cret" not in line
    assert "127.0.0.1" in line


def test_an_encoder_without_a_tokenizer_or_with_a_wrong_digest_is_refused(tmp_path):
    """A wrong encoder would give a study that nobody can repeat."""
    wrong = '[teacher]\nsha256 = "' + "0" * 64 + '"\n[search]'
    assert "SHA-256" in bad(tmp_path, ("[search]\n", wrong + "\n"), real=True)
    folder = tmp_path / "encoder"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "bert"}))
    (folder / "model.safetensors").write_bytes(b"")
    assert "no tokenizer" in bad(tmp_path, ("[search]\n", f'[teacher]\nencoder = "{folder}"\n[search]\n'), real=True)


def test_an_unknown_study_is_refused_with_the_names_there_are():
    """A typo in a name must not look like an empty study."""
    done = hpo("status", "nowhere")
    assert done.returncode == 2
    assert "there is no study 'nowhere'" in done.stderr


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (("stop", "nowhere"), ["there is no study 'nowhere'"]),
        (("resume", "nowhere"), ["there is no study 'nowhere'"]),
        (("delete", "nowhere", "--yes"), ["there is no study 'nowhere'"]),
        (("dashboard", "nowhere"), ["there is no study 'nowhere'"]),
        (("dashboard", "--host", "192.0.2.1"), ["--host 192.0.2.1", "address of this machine"]),
    ],
)
def test_a_verb_on_an_unknown_study_says_so(tmp_path, command, words):
    """Stopping or deleting nothing with success would leave the wrong study running."""
    line = bad(tmp_path, None, *command)
    assert all(word in line for word in words)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--engine", "slurm"), ["'slurm'", "'local'", "'ray'", "'external'"]),
        (("--workers", "0"), ["'--workers'", "1"]),
    ],
)
def test_a_flag_that_cannot_be_is_a_usage_error_that_says_what_can(tmp_path, flags, words):
    """Taken for another it would start the wrong thing, or nothing."""
    done = call("launch", mini(tmp_path), *flags)
    assert done.returncode == 2
    said = " ".join(done.stderr.replace("\u2502", " ").split())
    assert all(word in said for word in words)


def test_the_address_of_a_cluster_without_its_engine_is_refused(tmp_path):
    """Ignored, a search meant for a cluster would run on the laptop."""
    assert "add --engine ray" in bad(tmp_path, None, "launch", mini(tmp_path), "--address", "head:6379")


def test_a_worker_of_another_version_is_refused(tmp_path, database_url):
    """Its recalls would be compared with the others', and may mean something else."""
    spec = load_spec(mini(tmp_path))
    opened = connect(database_url)
    register(opened, spec, "fingerprint")
    Control(opened.engine, "mini").start("0.0.1", None)
    opened.engine.dispose()
    assert "launched by scenetune 0.0.1" in bad(tmp_path, None, "worker", "mini")


def test_a_worker_says_that_the_database_has_no_connection_left(tmp_path, database, superuser_url):
    """Its launcher shows what it says: otherwise the reason stands in its log alone, for ten minutes."""
    administrator = create_engine(superuser_url)
    with administrator.begin() as connection:
        connection.exec_driver_sql("CREATE ROLE few LOGIN CONNECTION LIMIT 3")
    url = database.url.replace("scenetune@", "few@")
    all_there_are = create_engine(url)
    with all_there_are.connect(), all_there_are.connect(), all_there_are.connect():
        worker = LocalEngine("absent", url, 1, lambda: "absent").start(0)
        while worker.waiting() is None:
            assert worker.ended() is None
            time.sleep(0.05)
        assert 'too many connections for role "few"): retrying for up to 600 s; end programs' in worker.waiting()
    all_there_are.dispose()
    while (end := worker.ended()) is None:
        time.sleep(0.05)
    with administrator.begin() as connection:
        connection.exec_driver_sql("DROP ROLE few")
    administrator.dispose()
    assert "too many" not in end.error


def test_a_database_of_a_newer_program_is_refused(tmp_path, database_url):
    """An older program would write what the newer one misreads."""
    opened = connect(database_url)
    with opened.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE scenetune_version SET version_num = '9999'")
    opened.engine.dispose()
    assert "upgrade scenetune" in bad(tmp_path, None, "status")


def test_a_folder_that_is_no_export_is_refused(tmp_path):
    """Scoring whatever lies there would vouch for the wrong model."""
    assert "manifest.json" in bad(tmp_path, None, "evaluate", tmp_path)


def test_places_for_results_are_checked_before_the_work(tmp_path, database_url):
    """Whoever works in a folder that takes no files would learn it after the search, the distillation and the test."""
    study, work, taken = mini(tmp_path), tmp_path / "work", tmp_path / "work" / "reports"
    work.mkdir()
    taken.write_text("a file, so that nothing can be written below it, not even by root")
    for command in (
        ("run", study),
        ("run", study, "--out", taken / "x"),
        ("run", study, "--trec", taken / "x"),
        ("baselines", study, "--trec", taken / "x"),
        ("baselines", study, "--out", taken / "x"),
        ("evaluate", "exports/none", "--trec", taken / "x"),
    ):
        done = call(*command, cwd=work, HPO_DATABASE_URL=database_url)
        assert (done.returncode, f"{taken} takes no files" in done.stderr) == (2, True), (command, done.stderr)
    assert [path.name for path in work.iterdir()] == ["reports"]
    assert "no studies yet" in call("status", HPO_DATABASE_URL=database_url).stderr


def test_an_unknown_flag_is_a_usage_error():
    """Scripts tell usage errors from failures by the exit code."""
    assert hpo("run", "--no-such-flag").returncode == 2


def test_data_check_shows_what_was_read_dropped_and_split(tmp_path):
    """Rows that vanish without a word are how wrong studies begin."""
    done = hpo("data", "check", mini(tmp_path), "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["rows_read"] == report["interactions"] + sum(report["dropped"].values())
    assert [report["parts"][part]["scenes"] for part in ("train", "validation", "test")] == [8, 4, 4]
