"""What a study owns, on a real PostgreSQL: neighbours of its name, Optuna studies of others, parts that are gone."""

import json
import shutil
from dataclasses import replace

import optuna
import pytest

from hpo import job, lifecycle
from hpo.artifacts import checkpoint
from hpo.dashboard.downloads import Artifacts
from hpo.ownership import copy_files, owned_distillation, owned_search
from hpo.registry import load_runnable_spec_of, register
from hpo.reporting.study_report import report_folder
from hpo.results.students import create_distillation
from hpo.search.trial_chains import chains
from hpo.stages import EVALUATION
from hpo.status.console import Console
from hpo.workers.launcher import launch
from hpo.workers.study_lease import study_lease
from storage.database.backup import backup, restore
from storage.database.control import Control
from storage.database.leases import Leases, Worker
from storage.database.postgres import connect
from storage.database.records import Records
from storage.errors import InputError
from storage.files import checkpoints
from studies.config.spec import parse_spec
from tests import report_document
from tests.conftest import _administer, _url
from tests.mini import call
from tests.watched import searched, spec


@pytest.fixture
def elsewhere(postgres, _template):
    """Another team's database; the home is the same."""
    _administer(postgres, f"CREATE DATABASE elsewhere TEMPLATE {_template}")
    opened = connect(_url(postgres, "elsewhere"))
    yield opened
    opened.engine.dispose()
    _administer(postgres, "DROP DATABASE elsewhere WITH (FORCE)")


@pytest.fixture
def study_file(tmp_path):
    """A study file that is refused before its data are read."""
    file = tmp_path / "mine.toml"
    file.write_text('name = "mine"\n[data]\nsource = "completejourney"\n')
    return file


def with_trials(study, trials):
    return study.model_copy(update={"search": study.search.model_copy(update={"trials": trials})})


def best_weight(database, name):
    """The recall that the best trial's checkpoint holds, and that of the trial."""
    owned = owned_search(database, name)
    best = owned.open().best_trial
    tensors, _ = checkpoints.last(owned.trial_folder(best.number))
    return float(tensors["weight"][0]), best.value


def names(database):
    return {study.study_name for study in database.storage.get_all_studies()}


def foreign(database, name, directions=("maximize",)):
    """Somebody's own Optuna study, with two trials."""
    study = optuna.create_study(storage=database.storage, study_name=name, directions=directions)
    for _ in range(2):
        study.tell(study.ask(), [0.5] * len(directions))
    return study


def scored(database, study):
    Records(database.engine).finish_stage(study.name, EVALUATION, report_document.document()["evaluation"])


def test_studies_of_one_name_in_two_databases_share_nothing(database, elsewhere):
    """Checkpoints went by the name alone: all trials of the second failed, and its deletion emptied the first."""
    first, second = spec("twin", trials=6), spec("twin", trials=8)
    searched(database, first)
    trials = searched(elsewhere, second)
    assert {trial.state.name for trial in trials} <= {"COMPLETE", "PRUNED"}
    assert owned_search(database, "twin").folder != owned_search(elsewhere, "twin").folder
    for each in (database, elsewhere):
        weight, recall = best_weight(each, "twin")
        assert weight == pytest.approx(recall)
    assert lifecycle.delete(elsewhere, "twin") == []
    weight, recall = best_weight(database, "twin")
    assert weight == pytest.approx(recall)
    number = owned_search(database, "twin").open().best_trial.number
    assert Artifacts(database).open(checkpoint("twin", number).id).size


def test_a_restored_copy_of_a_study_in_the_same_home_is_another_study(database, elsewhere, tmp_path):
    """Its deletion took the original's checkpoints, and the workers of the original seemed to work on it."""
    searched(database, spec("twin", trials=6))
    with study_lease(database, "twin"):
        backup(database.url, tmp_path / "x.zip")
        assert copy_files(elsewhere, restore(elsewhere.url, tmp_path / "x.zip")) == []
        assert best_weight(elsewhere, "twin") == best_weight(database, "twin")
        assert lifecycle.delete(elsewhere, "twin") == []
    weight, recall = best_weight(database, "twin")
    assert weight == pytest.approx(recall)
    shutil.rmtree(owned_search(database, "twin").folder)
    earlier = restore(elsewhere.url, tmp_path / "x.zip")
    folders = owned_search(database, "twin").folder, owned_search(elsewhere, "twin").folder
    assert copy_files(elsewhere, earlier) == [folders]


def test_a_study_made_anew_under_its_name_does_not_find_the_old_ones_files(database):
    """A marker that a deletion could not remove would be resumed from."""
    searched(database, spec("again", trials=3))
    before = owned_search(database, "again").folder
    lifecycle.delete(database, "again")
    assert not before.exists()
    searched(database, spec("again", trials=3))
    assert owned_search(database, "again").folder != before


@pytest.mark.parametrize(
    ("name", "directions"),
    [("mine", ("maximize",)), ("mine", ("minimize", "minimize")), ("mine-distill", ("minimize",))],
)
def test_an_optuna_study_of_others_is_neither_joined_nor_touched(database, database_url, study_file, name, directions):
    """Its trials counted as ours, or ended in a KeyError, and deleting our study deleted it."""
    theirs = foreign(database, name, directions)
    for verb in ("launch", "run"):
        refused = call(verb, study_file, "--database", database_url)
        assert refused.returncode == 2, refused.stderr
        assert f"Optuna study '{name}' with 2 trials already, which scenetune did not make" in refused.stderr
        assert "another name" in refused.stderr
    for command in (("status", name), ("delete", name, "--yes"), ("resume", name), ("export", name, "--out", "x")):
        refused = call(*command, "--database", database_url)
        assert (refused.returncode, "hpo leaves it alone" in refused.stderr) == (2, True), refused.stderr
    assert "no studies yet" in call("status", "--database", database_url).stderr
    assert len(theirs.trials) == 2
    assert Records(database.engine).study_names() == []


def test_no_search_starts_from_an_optuna_study_of_others(database):
    """`search.warm_start` names a study of ours; what others optimised are other parameters."""
    foreign(database, "theirs")
    study = spec("mine")
    search = study.search.model_copy(update={"warm_start": "theirs"})
    with pytest.raises(InputError, match="hpo leaves it alone"):
        register(database, study.model_copy(update={"search": search}), "f")


def test_a_deletion_leaves_what_others_put_in_a_studys_place(database):
    """Between launch and distillation anybody may take the name."""
    study = spec("mine", trials=3)
    searched(database, study)
    foreign(database, "mine-distill")
    with pytest.raises(InputError, match="which scenetune did not make"):
        create_distillation(database, study)
    assert lifecycle.delete(database, "mine") == ["the Optuna study 'mine-distill' is not of this study, and stays"]
    assert names(database) == {"mine-distill"}


def test_the_name_of_a_studys_distillation_is_taken():
    """Launched during the search of `shop`, it would make that one's distillation fail."""
    with pytest.raises(InputError, match="the students of study 'shop' have that name"):
        spec("shop-distill")


def test_a_study_whose_trials_are_gone_is_named_and_can_be_deleted(database, database_url):
    """One click in plain optuna-dashboard made `hpo status` end in a KeyError for every study."""
    for name in ("keep", "other"):
        searched(database, spec(name, trials=3))
    folder = owned_search(database, "keep").folder
    optuna.delete_study(study_name="keep", storage=database.storage)
    shown = call("status", "--database", database_url)
    assert (shown.returncode, "other" in shown.stdout) == (0, True)
    assert "the trials of study 'keep' are gone" in shown.stderr
    told = [json.loads(line) for line in call("status", "--json", "--database", database_url).stdout.splitlines()]
    assert [("error" in each, each["name"]) for each in told] == [(False, "other"), (True, "keep")]
    for command in (("status", "keep"), ("report", "keep"), ("resume", "keep"), ("distill", "keep"), ("stop", "keep")):
        refused = call(*command, "--database", database_url)
        assert refused.returncode == 2, refused.stderr
    assert "rename it back" in call("status", "keep", "--database", database_url).stderr
    with pytest.raises(InputError, match="are gone"):
        register(database, spec("keep", trials=9), "fingerprint")
    assert folder.exists()
    done = call("delete", "keep", "--yes", "--database", database_url)
    assert (done.returncode, folder.exists()) == (0, False), done.stderr
    assert Records(database.engine).study_names() == ["other"]


def test_a_study_that_others_made_in_the_place_of_a_lost_one_is_not_taken_for_it(database, database_url):
    """Its trials would be shown as ours, and be deleted with our records."""
    searched(database, spec("keep", trials=3))
    optuna.delete_study(study_name="keep", storage=database.storage)
    foreign(database, "keep")
    refused = call("status", "keep", "--database", database_url)
    assert (refused.returncode, "is another one, which scenetune did not make" in refused.stderr) == (2, True)
    done = call("delete", "keep", "--yes", "--database", database_url)
    assert (done.returncode, "and stays" in done.stderr) == (0, True)
    assert names(database) == {"keep"}


def test_a_study_whose_records_are_gone_is_named_and_left_alone(database, database_url):
    """What made it cannot be proven any more: a copy from another database looks the same."""
    searched(database, spec("lost", trials=3))
    Records(database.engine).delete_study("lost")
    shown = call("status", "--database", database_url)
    assert (shown.returncode, "the records of the Optuna study 'lost' are gone" in shown.stderr) == (0, True)
    refused = call("delete", "lost", "--yes", "--database", database_url)
    assert (refused.returncode, "whose records are gone" in refused.stderr) == (2, True)
    with pytest.raises(InputError, match="whose records are gone"):
        register(database, spec("lost", trials=3), "fingerprint")


def test_a_study_without_its_files_is_shown_and_deleted(database, database_url):
    """A home that was cleaned up leaves the database as it was."""
    searched(database, spec("bare", trials=3))
    shutil.rmtree(owned_search(database, "bare").folder)
    assert call("status", "bare", "--database", database_url).returncode == 0
    assert call("delete", "bare", "--yes", "--database", database_url).returncode == 0
    assert names(database) == set()


def test_a_launch_that_was_killed_between_record_and_trials_is_completed(database):
    """The record is written first; without results nothing can be missing."""
    study = spec("early", trials=3)
    Records(database.engine).save_study("early", study.model_dump(mode="json"), "fingerprint")
    assert len(chains(searched(database, study))) == 3


def test_a_distillation_made_anew_does_not_resume_the_lost_ones_students(database):
    """Their trials are gone, and new ones have the same numbers."""
    study = spec("shop", trials=3)
    searched(database, study)
    create_distillation(database, study)
    old = owned_distillation(database, "shop").trial_folder(0)
    old.mkdir(parents=True)
    optuna.delete_study(study_name="shop-distill", storage=database.storage)
    create_distillation(database, study)
    assert not old.exists()


def test_no_trial_runs_after_the_test_scenes_were_scored(database, database_url):
    """Their figures would be those of another search, and a second scoring would choose among them."""
    study = spec("done", trials=4)
    trials = searched(database, study)
    scored(database, study)
    more = with_trials(study, 9)
    with pytest.raises(InputError, match=r"scored once.*warm_start = \"done\""):
        register(database, more, "fingerprint")
    with pytest.raises(InputError, match="scored once"):
        job.begin(database, more, Console())
    with pytest.raises(InputError, match="scored once"):
        job.run(database, more, Console())
    for budget in ((), ("--trials", "9")):
        refused = call("resume", "done", *budget, "--database", database_url)
        assert (refused.returncode, "scored once" in refused.stderr) == (2, True)
    # Launched again as it is, it only says where its data are: no deadline, no trial.
    register(database, study, "fingerprint")
    assert owned_search(database, "done").open().get_trials() == trials
    assert Records(database.engine).load_study("done").spec["search"]["trials"] == 4


def test_a_search_that_a_deadline_ended_is_not_launched_again_once_scored(database):
    """Its budget has room, so only the scoring says that it is over."""
    study = spec("late", trials=4)
    searched(database, study)
    more = with_trials(study, 9)
    Records(database.engine).update_spec("late", more.model_dump(mode="json"))
    Control(database.engine, "late").start("1", 0.0)
    scored(database, study)
    register(database, more, "fingerprint")
    assert Control(database.engine, "late").state().overdue, "a worker that comes now begins nothing"
    with pytest.raises(InputError, match="scored once"):
        launch(database, more, Console(), engine=None)


def test_a_study_that_is_worked_on_is_not_deleted(database, database_url):
    """Finalists, distillation and export run no trial; their study vanished under them."""
    searched(database, spec("busy", trials=3))
    with study_lease(database, "busy"):
        refused = call("delete", "busy", "--yes", "--database", database_url)
        assert (refused.returncode, "is being worked on by" in refused.stderr) == (2, True)
    # Whoever was killed holds nothing.
    gone = replace(Worker.here(), pid=2**22 - 1, name="gone")
    assert Leases(database.engine, "busy/").acquire(7, gone)
    assert call("delete", "busy", "--yes", "--database", database_url).returncode == 0


def test_a_program_whose_study_is_deleted_meanwhile_says_so(database):
    """Idle workers and dashboards met a KeyError."""
    study = spec("busy", trials=3)
    searched(database, study)
    held = owned_search(database, "busy").open()
    lifecycle.delete(database, "busy")
    with pytest.raises(InputError, match="were deleted from the database while"):
        held.get_trials()


def test_data_and_encoder_may_move_and_may_not_change(database, tmp_path):
    """Paths were part of the identity, and what was missing was blamed on a study file that nobody gave."""

    def at(folder):
        folder.mkdir(exist_ok=True)
        (folder / "log.csv").touch()
        data = {"source": "files", "interactions": str(folder / "log.csv"), "items": str(folder / "log.csv")}
        columns = {"user": "u", "item": "i", "time": "t", "scene": "s", "text": "x"}
        return parse_spec({"name": "moved", "data": data | columns, "teacher": {"encoder": str(folder / "encoder")}})

    register(database, at(tmp_path / "old"), "fingerprint", "a" * 64)
    assert load_runnable_spec_of(database, "moved").data.interactions
    (tmp_path / "old").rename(tmp_path / "new")
    with pytest.raises(InputError, match=r"'moved' reads .*old/log.csv, which is not on this machine.* hpo launch"):
        load_runnable_spec_of(database, "moved")
    register(database, at(tmp_path / "new"), "fingerprint", "a" * 64)
    assert load_runnable_spec_of(database, "moved").data.interactions == [str(tmp_path / "new" / "log.csv")]
    with pytest.raises(InputError, match="another encoder"):
        register(database, at(tmp_path / "new"), "fingerprint", "b" * 64)


def test_a_report_does_not_replace_that_of_another_study(tmp_path, monkeypatch):
    """Two databases, one working directory: the second run overwrote what the first had written."""
    monkeypatch.chdir(tmp_path)
    ours, other = "a" * 32, "b" * 32
    folder = tmp_path / "reports" / "shop"
    assert report_folder("shop", ours) == folder
    folder.mkdir(parents=True)
    (folder / "report.json").write_text(json.dumps({"study": "shop", "study_id": ours}))
    assert report_folder("shop", ours) == folder
    assert report_folder("shop", other) == tmp_path / "reports" / "shop-bbbbbbbb"
