"""A study of classification through the installed command: from the check to labels of new texts, after a kill."""

import contextlib
import json
import os
import re
import signal
from pathlib import Path

import optuna
import polars as pl
import pytest
import sqlalchemy as sa
from optuna.trial import TrialState
from optuna_dashboard._custom_plot_data import get_plotly_graph_objects
from optuna_dashboard._note import get_note

from hpo.stages import EXPLANATIONS, export_stage
from storage.database.records import Records, stage_table
from storage.files.atomic import sha256
from tests.forked import fork, worker
from tests.mini import call, mini_labels
from tests.running import children, trials_of, wait_for

pytestmark = pytest.mark.usefixtures("shared_caches")
# What a study of ranking would say.
FOREIGN = re.compile(
    r"(?i)\b(scenes?|recall@\w+|interactions?|support popularity|recommend\w*|rankings?|catalogues?|histor(y|ies))\b"
)


def in_own_words(text: str) -> bool:
    """Whether nothing speaks of ranking, but for paths and what both tasks have."""
    found = FOREIGN.search(re.sub(r"\S*/\S*|vocabulary = catalogue|labels or scenes", "", text))
    assert found is None, text[max(0, found.start() - 100) : found.end() + 50]
    return True


@pytest.mark.slow
def test_a_classification_is_killed_and_stopped_and_ends_as_one_that_was_not(database, database_url, tmp_path):
    """Whoever sorts a feed has the same promises as whoever ranks: nothing lost, everything said in its words."""
    rungs = "[2, 100]"
    study, calm = mini_labels(tmp_path, rungs=rungs), mini_labels(tmp_path, "calm", rungs)
    undisturbed = fork("launch", calm, "--workers", "1", cwd=tmp_path, HPO_DATABASE_URL=database_url)
    refused = call("run", study, "--trec", tmp_path / "trec", cwd=tmp_path, HPO_DATABASE_URL=database_url)
    assert (refused.returncode, "gives no rankings; leave --trec out" in refused.stderr) == (2, True), refused.stderr
    process = fork("run", study, "--workers", "2", cwd=tmp_path, HPO_DATABASE_URL=database_url)

    def some_at_work() -> bool:
        with contextlib.suppress(KeyError):
            states = [trial.state for trial in trials_of(database_url, "labels")]
            return TrialState.RUNNING in states and bool(children(process.pid))
        return False

    wait_for(some_at_work, process)
    os.killpg(children(process.pid)[0].pid, signal.SIGKILL)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, "nothing finished is lost" in errors) == (130, True), errors
    assert in_own_words(errors)

    with worker("labels", HPO_DATABASE_URL=database_url):
        done = call("run", study, "--engine", "external", "--json", cwd=tmp_path, HPO_DATABASE_URL=database_url)
    assert done.returncode == 0, done.stderr
    assert in_own_words(done.stderr)
    result = json.loads(done.stdout)
    _, errors = undisturbed.communicate(timeout=400)
    assert undisturbed.returncode == 0, errors
    ends = [{str(t.params): t.values for t in trials_of(database_url, name) if t.values} for name in ("labels", "calm")]
    assert len(ends[0]) == 4
    assert ends[0] == ends[1]
    again = call("run", study, "--json", cwd=tmp_path, HPO_DATABASE_URL=database_url)
    assert json.loads(again.stdout) == result

    _check_figures(result["evaluation"])
    _check_pages(database, result, database_url)
    _check_export(Path(result["export"]), tmp_path)
    _check_explanations(database, result, study, database_url)


def _check_figures(evaluation) -> None:
    systems = evaluation["systems"]
    kinds = {figures["kind"] for figures in systems.values()}
    assert {"baseline", "teacher", "student", "labels alone"} <= kinds
    assert (evaluation["metric"], evaluation["queries"]) == ("macro recall", 8 * 3 * 3)
    gain = evaluation["search_gain"]
    assert (gain["default"]["trial"], gain["unfinished"], gain["first"]) == (0, "", None)
    assert gain["default"]["system"] in systems
    assert systems["random"]["recall"]["mean"] < systems["TF-IDF centroids"]["recall"]["mean"]
    for figures in systems.values():
        assert set(figures["by_shots"]) == {"1", "2"}
        pooled = figures["pooled"]
        assert sum(found["queries"] for found in pooled["classes"].values()) == evaluation["queries"]
        assert 0 <= pooled["calibration_error"] <= 1
        right = sum(found["queries"] * found["recall"] for found in pooled["classes"].values())
        assert right / evaluation["queries"] == pytest.approx(figures["metrics"]["accuracy"]["mean"])
        wrong = sum(found["queries"] for found in pooled["confusions"])
        assert wrong <= round(evaluation["queries"] - right)


def _check_pages(database, result, url) -> None:
    report = Path(result["report"])
    assert sorted(path.name for path in report.parent.iterdir()) == ["report.html", "report.json", "report.md"]
    text = report.with_suffix(".md").read_text("utf-8")
    assert in_own_words(text)
    assert "The student" in text.split("## ")[0]
    assert "the same student trained on the labels alone" in text
    assert "the default configuration, the middle of the search space" in text
    for label in result["evaluation"]["systems"]["student"]["pooled"]["classes"]:
        assert f"| {label} |" in text
    assert in_own_words(re.sub("<[^>]*>", " ", report.read_text("utf-8").partition("<body")[2]))
    said = call("status", "labels", HPO_DATABASE_URL=url)
    assert "4 complete" in said.stdout
    assert "scored on its test split: hpo report labels" in said.stdout
    assert in_own_words(said.stdout)
    for name in ("labels", "labels-distill"):
        study = optuna.load_study(storage=database.storage, study_name=name)
        note = get_note(study)
        assert "### Test episodes" in note
        assert "the default configuration" in note
        assert in_own_words(note)
        plots = get_plotly_graph_objects(database.storage.get_study_system_attrs(study._study_id))
        assert plots
        assert all(map(in_own_words, plots.values()))


def _check_export(folder: Path, tmp_path: Path) -> None:
    assert in_own_words((folder / "README.md").read_text("utf-8").partition("\n---\n")[2])
    checked = call("evaluate", folder, "--json", cwd=tmp_path)
    assert checked.returncode == 0, checked.stderr
    figures = json.loads(checked.stdout)
    assert figures["recall"]["mean"] == pytest.approx(figures["recorded"]["mean"], abs=1e-6)
    shown = call("evaluate", folder, cwd=tmp_path)
    assert in_own_words(shown.stdout + shown.stderr)
    rows = pl.read_csv(tmp_path / "feed.csv").drop_nulls("label")
    support = rows.filter(pl.int_range(pl.len()).over("label") < 2)
    support.write_csv(tmp_path / "support.csv")
    rest = rows.join(support, on="text", how="anti").head(20)
    rest.select("text").write_csv(tmp_path / "new.csv")
    given = ("--support", tmp_path / "support.csv", "--texts", tmp_path / "new.csv")
    sorted_ = call("classify", folder, *given, "--json")
    assert sorted_.returncode == 0, sorted_.stderr
    found = [json.loads(line) for line in sorted_.stdout.splitlines()]
    assert [row["text"] for row in found] == rest["text"].to_list()
    assert {row["label"] for row in found} <= set(support["label"])
    assert in_own_words(sorted_.stderr)


def _check_explanations(database, result, study, url) -> None:
    """The report needs the database alone; what a kill or an earlier version left out is made up for."""
    report, export = Path(result["report"]).with_name("report.json"), export_stage(Path(result["export"]))
    told = json.loads(report.read_text("utf-8"))["explanations"]
    assert [len(each["texts"]) for each in told["episodes"]] == [4, 4, 4]
    assert all(len(text["nearest"]) == 3 for each in told["episodes"] for text in each["texts"])

    def forget(*stages: str) -> None:
        with database.engine.begin() as connection:
            connection.execute(sa.delete(stage_table).where(stage_table.c.name.in_(stages)))

    def does(*command: object) -> object:
        done = call(*command, cwd=study.parent, HPO_DATABASE_URL=url)
        assert done.returncode == 0, done.stderr
        return json.loads(report.read_text("utf-8"))["explanations"]

    forget(EXPLANATIONS, export)
    assert does("run", study) == told, "killed after the folder was written"
    forget(EXPLANATIONS)
    assert does("run", study) is None, "exported by an earlier version"
    written = sha256(Path(result["export"], "manifest.json"))
    does("export", "labels", "--out", result["export"])
    assert Records(database.engine).stage_result("labels", EXPLANATIONS) == told
    assert sha256(Path(result["export"], "manifest.json")) == written


def test_data_check_and_baselines_of_a_feed_speak_of_classes(tmp_path):
    """The first commands of a new user."""
    study = mini_labels(tmp_path)
    checked = call("data", "check", study, cwd=tmp_path)
    assert checked.returncode == 0, checked.stderr
    assert in_own_words(checked.stdout + checked.stderr)
    for words in ("unlabelled rows", "rows per class", "leakage audit", "no group of a test class"):
        assert words in checked.stdout
    found = json.loads(call("data", "check", study, "--json", cwd=tmp_path).stdout)
    assert (found["classes"], found["labelled"], found["error"]) == (24, 24 * 16, None)
    assert [part["classes"] for part in found["parts"].values()] == [12, 6, 6]
    assert {finding["status"] for finding in found["audit"]} == {"ok"}
    page = tmp_path / "page"
    scored = call("baselines", study, "--part", "validation", "--out", page, cwd=tmp_path)
    assert scored.returncode == 0, scored.stderr
    assert in_own_words(scored.stdout + scored.stderr)
    assert "zero-shot class names" in scored.stdout
    text = (page / "report.md").read_text("utf-8")
    assert "with validation classes" in text
    assert in_own_words(text)
    refused = call("baselines", study, "--trec", tmp_path / "trec", cwd=tmp_path)
    assert (refused.returncode, "leave --trec out" in refused.stderr) == (2, True)
