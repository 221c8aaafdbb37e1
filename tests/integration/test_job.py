"""The whole job through the installed command, as a newcomer runs it, and after every kind of interruption."""

import contextlib
import json
import os
import shutil
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import optuna
import psutil
import pytest
import sqlalchemy as sa
from optuna.trial import TrialState
from optuna_dashboard._note import get_note

import distill.export.writer as exporting
from hpo.export import export
from hpo.registry import load_spec_of
from hpo.reporting.renderers.markdown import escape
from hpo.search.trial_chains import LOST, chains
from hpo.stages import EVALUATION
from hpo.status.console import Console
from storage.database.embedded import EmbeddedPostgres
from storage.database.postgres import connect, create_engine
from storage.database.records import Records
from storage.errors import DatabaseUnreachable
from storage.home import cache_folder
from studies.training.prepare import prepare
from tests.forked import fork, worker
from tests.mini import call, mini, start
from tests.running import children, trials_of, wait_for

pytestmark = pytest.mark.usefixtures("shared_caches")


@pytest.fixture
def own_server():
    """The embedded server of the test's home, which its commands start; it and its folder are gone afterwards."""
    server = EmbeddedPostgres(Path(os.environ["HPO_HOME"]))
    yield server
    server.stop()
    shutil.rmtree(server.folder, ignore_errors=True)


@pytest.mark.slow
def test_the_job_goes_from_data_to_a_student_that_transformers_opens(database_url, tmp_path, monkeypatch):
    """The whole promise in one go: a break anywhere between data and export shows here."""
    # Both kinds of teacher: frozen, and with a trained encoder layer.
    study = mini(tmp_path, layers="[0, 1]", extra="[teacher]\nmax_tokens = 8\n", real=True)
    records = Records(connect(database_url).engine)
    process = start("run", study, "--json", "--workers", "2", cwd=tmp_path, HPO_DATABASE_URL=database_url)
    wait_for(lambda: records.stage_result("mini", EVALUATION), process, seconds=900)
    # It exports: no trial runs, and yet its study must not vanish.
    refused = call("delete", "mini", "--yes", HPO_DATABASE_URL=database_url)
    assert (refused.returncode, "is being worked on by" in refused.stderr) == (2, True), refused.stderr
    output, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors
    result = json.loads(output)
    folder = Path(result["export"])

    systems = result["evaluation"]["systems"]
    teachers = [name for name, figures in systems.items() if figures["kind"] == "teacher"]
    assert {"random", "support popularity", "zero-shot encoder", "student"} <= systems.keys()
    assert len(teachers) == 2
    for figures in systems.values():
        recall = figures["recall"]
        assert 0 <= recall["low"] <= recall["mean"] <= recall["high"] <= 1
    assert systems["random"]["recall"]["mean"] < systems["support popularity"]["recall"]["mean"]
    inference = result["evaluation"]["inference"]
    assert inference["student"]["parameters"] < inference["teacher"]["parameters"]
    assert result["search"]["trials"] == 5
    assert result["evaluation"]["search_gain"]["default"]["trial"] == 0
    report = Path(result["report"])
    lists = json.loads(report.with_name("report.json").read_text("utf-8"))["explanations"]["lists"]
    scores = [(item["score"], [term["value"] for term in item["terms"]]) for each in lists for item in each["items"]]
    assert len(scores) == 3 * 5
    assert all(sum(terms) == pytest.approx(score, abs=1e-5) for score, terms in scores)
    text = report.with_suffix(".md").read_text("utf-8").partition("## Why an item is on the list")[2]
    assert all(escape(f"{each['scene']}: the first 5 of {each['candidates']} items") in text for each in lists)

    from transformers import AutoModel, AutoTokenizer

    model = AutoModel.from_pretrained(folder)
    assert model.config.model_type == "distilbert"
    assert AutoTokenizer.from_pretrained(folder)("milk")["input_ids"]

    # Plain Optuna sees the study; nothing is left running; budgets are exact.
    trials = trials_of(database_url)
    assert len(chains(trials)) == 5
    assert all(t.state in (TrialState.COMPLETE, TrialState.PRUNED) for t in trials)

    # Their pages in the dashboard are those of the end.
    notes = [get_note(optuna.load_study(study_name=name, storage=database_url)) for name in ("mini", "mini-distill")]
    assert "5 of 5 trials" in notes[0]
    assert all("### Test scenes" in note for note in notes)

    # The teachers are the best of the finalists, looked at again.
    finalists = result["evaluation"]["finalists"]
    assert len(finalists["ranked"]) == 4
    assert [each["trial"] for each in finalists["ranked"][:2]] == [
        teacher["trial"] for teacher in result["evaluation"]["teachers"]
    ]
    assert len(trials_of(database_url, "mini-distill")) == 1

    # Again: nothing is repeated, the same result comes back.
    again = call("run", study, "--json", cwd=tmp_path, HPO_DATABASE_URL=database_url)
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout) == result
    assert len(trials_of(database_url)) == len(trials)

    # Nor are trials added; and an export that was moved is still the study's.
    refused = call("run", study, "--trials", "9", cwd=tmp_path, HPO_DATABASE_URL=database_url)
    assert (refused.returncode, "no further trial may run" in refused.stderr) == (2, True), refused.stderr
    (tmp_path / "moved").mkdir()
    (tmp_path / "exports").rename(tmp_path / "moved" / "exports")
    there = call("run", study, "--json", cwd=tmp_path / "moved", HPO_DATABASE_URL=database_url)
    assert there.returncode == 0, there.stderr
    folder = Path(json.loads(there.stdout)["export"])
    assert folder == tmp_path / "moved" / "exports" / "mini"

    # The export vouches for its own figures.
    checked = call("evaluate", folder, "--json", cwd=tmp_path)
    assert checked.returncode == 0, checked.stderr
    figures = json.loads(checked.stdout)
    assert figures["recall"]["mean"] == pytest.approx(figures["recorded"]["mean"], abs=1e-6)

    # A second copy elsewhere; a folder that exists is refused and left alone.
    monkeypatch.setattr(exporting, "_check_parity", lambda *_: None)  # the run has checked the same student
    copied = call("export", "mini", "--out", tmp_path / "copy", HPO_DATABASE_URL=database_url)
    assert copied.returncode == 0, copied.stderr
    assert (tmp_path / "copy" / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()
    # Two at once, as two `hpo run` of one study come to it: one writes, and the other finds what it wrote.
    opened = connect(database_url)
    spec = load_spec_of(opened, "mini")
    problem = prepare(spec, cache_folder())
    with ThreadPoolExecutor() as pool:
        both = [pool.submit(export, opened, spec, problem, tmp_path / "both", Console()) for _ in range(2)]
    assert [each.result() for each in both] == [tmp_path / "both"] * 2
    opened.engine.dispose()
    (tmp_path / "taken").mkdir()
    refused = call("export", "mini", "--out", tmp_path / "taken", HPO_DATABASE_URL=database_url)
    assert refused.returncode == 2
    assert "exists already" in refused.stderr
    assert list((tmp_path / "taken").iterdir()) == []

    # A changed definition under the old name is refused with what differs.
    study.write_text(study.read_text().replace("inner_steps = [1, 2]", "inner_steps = [1, 3]"))
    changed = call("run", study, cwd=tmp_path, HPO_DATABASE_URL=database_url)
    assert changed.returncode == 2
    assert "search.space.inner_steps: [1, 2] → [1, 3]" in changed.stderr


@pytest.mark.slow
def test_ctrl_c_stops_in_order_and_the_same_command_goes_on(database_url, tmp_path):
    """Ctrl-C must lose nothing finished, leave nothing running, and cost no trial of the budget."""
    study = mini(tmp_path, trials=4)
    text = study.read_text().replace("rungs = [2, 4]", "rungs = [2, 100]")
    study.write_text(text.replace("eta = 2", 'rule = "asha"\neta = 9'))
    process = start("launch", study, "--workers", "2", cwd=tmp_path, HPO_DATABASE_URL=database_url)

    def some_finished_some_running():
        try:
            states = [t.state for t in trials_of(database_url)]
        except KeyError:
            return False
        return TrialState.COMPLETE in states and TrialState.RUNNING in states

    wait_for(some_finished_some_running, process)
    workers = children(process.pid)
    assert len(workers) == 2
    for _ in range(3):  # as a key that is held down
        process.send_signal(signal.SIGINT)
        time.sleep(0.05)
    errors = ""
    while "nothing finished is lost" not in errors:
        line = process.stderr.readline()
        assert line, errors
        errors += line
    while process.poll() is None:
        process.send_signal(signal.SIGINT)
        time.sleep(0.01)
    errors += process.stderr.read()
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    assert "Exception ignored" not in errors
    assert not any(worker.is_running() for worker in workers)
    before = {t.number: t for t in trials_of(database_url)}
    assert TrialState.RUNNING not in {t.state for t in before.values()}

    with worker("mini", HPO_DATABASE_URL=database_url):
        done = call("launch", study, "--engine", "external", "--json", cwd=tmp_path, HPO_DATABASE_URL=database_url)
    assert done.returncode == 0, done.stderr
    after = {t.number: t for t in trials_of(database_url)}
    finished = [n for n, t in before.items() if t.state == TrialState.COMPLETE]
    assert all(after[n].datetime_complete == before[n].datetime_complete for n in finished)
    last = [chain[-1] for chain in chains(after.values()).values()]
    ended = [t for t in last if t.state in (TrialState.COMPLETE, TrialState.PRUNED)]
    assert len(ended) == 4
    configurations = [json.dumps(t.params, sort_keys=True) for t in ended]
    assert len(set(configurations)) == 4
    assert json.loads(done.stdout)["finished"]


@pytest.mark.slow
def test_killed_workers_and_servers_are_replaced_and_a_killed_launcher_leaves_no_workers(own_server, tmp_path):
    """SIGKILL gives no chance to clean up: a lost worker must not end the search, nor orphans train for nobody."""
    study = mini(tmp_path, trials=50)
    process = fork("launch", study, "--workers", "2", cwd=tmp_path)
    wait_for(lambda: len(children(process.pid)) == 2, process)
    victim = children(process.pid)[0]
    os.kill(victim.pid, signal.SIGKILL)
    wait_for(lambda: len({child.pid for child in children(process.pid)} - {victim.pid}) == 2, process)

    def ended():
        try:
            return sum(trial.state.is_finished() for trial in trials_of(own_server.url))
        except (KeyError, sa.exc.OperationalError, DatabaseUnreachable):
            return -1

    wait_for(lambda: ended() > 0, process)
    os.kill(int((own_server.folder / "data" / "postmaster.pid").read_text().split()[0]), signal.SIGKILL)
    before = ended()
    wait_for(lambda: ended() > max(before, 0) + 1, process)
    process.kill()
    process.wait()
    deadline = time.monotonic() + 30
    while _workers(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not _workers(tmp_path)


def _workers(folder: Path) -> list[psutil.Process]:
    return [p for p in _processes(folder) if "worker" in p.info["cmdline"] and "mini" in p.info["cmdline"]]


def _processes(folder: Path) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter(["cmdline"]):
        if process.info["cmdline"]:
            try:
                if process.cwd() == str(folder):
                    found.append(process)
            except psutil.Error:
                continue
    return found


@pytest.mark.slow
def test_a_dead_workers_trial_is_continued_from_its_checkpoint_by_the_next_launch(database, database_url, tmp_path):
    """A trial whose worker vanished must be found, and go on from its rung under its own number, not from zero.

    It trains a layer of the encoder with dropout, and ends with the weights of the same trial that nothing disturbed.
    """
    study, calm = (mini(tmp_path, name, trials=1, layers="1\ndropout = 0.1") for name in ("mini", "calm"))
    for file in (study, calm):
        text = file.read_text().replace("rungs = [2, 4]", "rungs = [2, 200]")
        file.write_text(text.replace('learner = ["protonet", "anil", "fomaml"]', 'learner = "anil"'))
    process = fork("launch", study, "--workers", "1", cwd=tmp_path, HPO_DATABASE_URL=database_url)
    records = Records(database.engine)

    def rung_reported():
        with contextlib.suppress(KeyError):
            return [trial for trial in trials_of(database_url) if trial.intermediate_values]

    wait_for(rung_reported, process)
    victim = children(process.pid)[0]
    process.kill()
    victim.kill()
    process.wait()
    first = records.rung_results("mini")[0]
    undisturbed = fork("launch", calm, "--workers", "1", cwd=tmp_path, HPO_DATABASE_URL=database_url)
    # As many workers, hence threads: sums in another number of them may differ in their last bit.
    done = call("launch", study, "--workers", "1", cwd=tmp_path, HPO_DATABASE_URL=database_url)
    assert done.returncode == 0, done.stderr
    (trial,) = trials_of(database_url)
    assert trial.state == TrialState.COMPLETE
    assert trial.intermediate_values.keys() == {2, 200}
    assert trial.user_attrs[LOST] == [round(first.cost_seconds, 2)]
    rungs = records.rung_results("mini")
    assert [(r.trial, r.rung) for r in rungs] == [(0, 0), (0, 1)]
    assert rungs[0].cost_seconds == first.cost_seconds
    _, errors = undisturbed.communicate(timeout=400)
    assert undisturbed.returncode == 0, errors
    assert trials_of(database_url, "calm")[0].values == trial.values
    home = Path(os.environ["HPO_HOME"])
    resumed, whole = (list(home.glob(f"artifacts/{name}*/*/step-000200/*.safetensors")) for name in ("mini", "calm"))
    assert [file.read_bytes() for file in resumed] == [file.read_bytes() for file in whole] != []


@pytest.mark.slow
def test_a_study_is_stopped_from_elsewhere_and_resumed_by_its_name(database_url, tmp_path):
    """Whoever stops it has another terminal, and maybe not the study file."""
    study = mini(tmp_path, trials=3)
    study.write_text(
        study.read_text().replace("rungs = [2, 4]", "rungs = [2, 100, 200]").replace("eta = 2", 'kind = "none"')
    )
    process = fork("launch", study, "--workers", "2", cwd=tmp_path, HPO_DATABASE_URL=database_url)

    def some_run():
        with contextlib.suppress(KeyError):
            return any(t.state == TrialState.RUNNING and t.intermediate_values for t in trials_of(database_url))

    wait_for(some_run, process)
    refused = call("delete", "mini", "--yes", HPO_DATABASE_URL=database_url)
    assert refused.returncode == 2
    assert "running trials" in refused.stderr
    stopped = call("stop", "mini", HPO_DATABASE_URL=database_url)
    assert stopped.returncode == 0, stopped.stderr
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "error: study 'mini' was stopped; hpo resume mini resumes it" in errors
    before = {t.number: t for t in trials_of(database_url)}
    assert TrialState.RUNNING not in {t.state for t in before.values()}

    study.unlink()
    done = call("resume", "mini", "--workers", "1", "--json", cwd=tmp_path, HPO_DATABASE_URL=database_url)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["finished"]
    after = trials_of(database_url)
    assert [t.number for t in after] == list(range(3))
    assert all(after[number].params == t.params for number, t in before.items() if t.params)
    again = call("resume", "mini", HPO_DATABASE_URL=database_url)
    assert again.returncode == 2
    assert "has ended: 3 trials; give it a larger budget" in again.stderr

    artifacts = Path(os.environ["HPO_HOME"]) / "artifacts"
    assert list(artifacts.glob("mini-*"))
    deleted = call("delete", "mini", "--yes", HPO_DATABASE_URL=database_url)
    assert deleted.returncode == 0, deleted.stderr
    assert not list(artifacts.iterdir())
    with pytest.raises(KeyError):
        trials_of(database_url)


@pytest.mark.slow
def test_workers_started_elsewhere_do_the_work_of_a_launch_that_starts_none(database_url, tmp_path):
    """Compose, SLURM and Kubernetes start workers in any order, some before the study is there."""
    early = fork("worker", "mini", "--wait", cwd=tmp_path, HPO_DATABASE_URL=database_url)
    study = mini(tmp_path, trials=3)
    launched = fork("launch", study, "--engine", "external", "--json", cwd=tmp_path, HPO_DATABASE_URL=database_url)
    late = fork("worker", "mini", "--wait", cwd=tmp_path, HPO_DATABASE_URL=database_url)
    output, errors = launched.communicate(timeout=400)
    assert launched.returncode == 0, errors
    assert json.loads(output)["finished"]
    assert "waiting for workers: hpo worker mini" in errors
    for each in (early, late):
        _, said = each.communicate(timeout=60)
        assert each.returncode == 0, said
    assert len(chains(trials_of(database_url))) == 3


@pytest.mark.slow
def test_two_launches_at_once_share_one_search(database_url, tmp_path):
    """Started twice by mistake, or from two terminals: one study, one budget, both end well; in a team's schema."""
    engine = create_engine(database_url)
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE SCHEMA team")
    database_url += "&options=-csearch_path%3Dteam,public"
    study = mini(tmp_path, trials=4)
    both = [fork("launch", study, "--workers", "1", cwd=tmp_path, HPO_DATABASE_URL=database_url) for _ in range(2)]
    for process in both:
        _, errors = process.communicate(timeout=400)
        assert process.returncode == 0, errors
    trials = trials_of(database_url)
    assert len(chains(trials)) == 4
    assert all(t.state.is_finished() for t in trials)
    assert sa.inspect(engine).get_table_names(schema="public") == []
    engine.dispose()


def test_two_databases_one_connection_helper(database_url):
    """`hpo db url` is promised to work in plain Optuna: so is every URL we print."""
    storage = connect(database_url).storage
    optuna.create_study(study_name="plain", storage=storage)
    assert optuna.load_study(study_name="plain", storage=database_url).trials == []
