"""Checkpoints, report and exports as Optuna's artifacts, on a real PostgreSQL, and what the server gives of them."""

import json
import shutil
import urllib.error
import urllib.request
import zipfile

import optuna
import pytest
import s3fs
from optuna.artifacts import download_artifact, get_all_artifact_meta
from optuna.artifacts.exceptions import ArtifactNotFound
from optuna.trial import TrialState

from distill.export.manifest import (
    HEAD,
    MANIFEST,
    SERVED,
    EncoderReference,
    FormatFigures,
    Manifest,
    ParameterCounts,
    VocabularySize,
    seal,
)
from distill.export.tasks.registry import LEXICON
from hpo import artifacts
from hpo.dashboard.downloads import Artifacts
from hpo.dashboard.page import Page
from hpo.ownership import owned_distillation, owned_search
from hpo.search.trial_chains import chain_of
from hpo.stages import EVALUATION, export_stage
from storage.database.records import Records
from storage.errors import InputError
from storage.files import checkpoints
from studies.config.hyperparameters import Hyperparameters
from tests import report_document
from tests.contract import test_hpo_search
from tests.contract.test_hpo_dashboard import distilled, serving, study  # noqa: F401 - fixtures
from tests.watched import searched, spec

NAME = "shop|<b>one"


@pytest.fixture
def exported(database, tmp_path):
    """A study that was evaluated and exported; returns the folder."""
    made = spec(NAME, trials=3)
    searched(database, made)
    distilled(database, made)
    document, records = report_document.document(), Records(database.engine)
    records.finish_stage(NAME, EVALUATION, document["evaluation"])
    folder = tmp_path / "exports" / "small"
    write_export(folder, owned_search(database, NAME).id)
    records.finish_stage(NAME, export_stage(folder), {"folder": str(folder)})
    Page(database, made).write()
    return folder


def write_export(folder, study_id):
    """A folder with the files of an export, and a manifest that vouches for them."""
    folder.mkdir(parents=True)
    for file in (*SERVED, LEXICON, "1_Pooling/config.json"):
        (folder / file).parent.mkdir(exist_ok=True)
        (folder / file).write_text(f"{file}\n")
    seal(folder, manifest(study_id))


def manifest(study_id):
    """The manifest of a student that nobody trained."""
    return Manifest(
        study=NAME,
        study_id=study_id,
        spec=spec(NAME).model_dump(mode="json"),
        data_fingerprint="ab12" * 16,
        encoder=EncoderReference(name="minilm", sha256="0" * 64, vocabulary=100),
        task="ranking",
        max_tokens=32,
        layers=1,
        width=8,
        dimensions=8,
        learner=Hyperparameters(),
        distillation={"layers": 1},
        vocabulary=VocabularySize(kept=10, of=100),
        parameters=ParameterCounts(encoder=80, head=8),
        precision="fp32",
        formats={"hf": FormatFigures()},
        versions={},
    )


def opened(database, name=NAME):
    """The Optuna study."""
    return optuna.load_study(storage=database.storage, study_name=name)


def unzipped(database, artifact, folder):
    """The one folder of an artifact's ZIP, downloaded as any script of Optuna's would."""
    download_artifact(artifact_store=Artifacts(database), artifact_id=artifact.id, file_path=f"{folder}.zip")
    with zipfile.ZipFile(f"{folder}.zip") as archive:
        archive.extractall(folder)
    [inner] = folder.iterdir()
    return inner


def test_every_finished_trial_has_its_checkpoint_and_no_other_has(database, study, tmp_path):  # noqa: F811
    """The best one is what people look for first; of a stopped trial there is nothing that a result rests on."""
    for trial in opened(database).get_trials():
        found = get_all_artifact_meta(trial, storage=database.storage)
        assert len(found) == (trial.state == TrialState.COMPLETE)
        if not found:
            continue
        assert found[0].filename == f"shop-b-one-trial-{chain_of(trial)}-checkpoint.zip"
        made = artifacts.parse(found[0].artifact_id)
        tensors, metadata = checkpoints.load(unzipped(database, made, tmp_path / str(trial.number)))
        assert tensors["weight"][0] == pytest.approx(trial.value)
        assert metadata == {"step": 90}


def test_a_trial_that_was_taken_up_again_has_the_checkpoint_of_its_story(database):
    """Its own number has no folder."""
    recalls, begun = iter([0.5, 0.4, 0.3, 0.2, 0.1, 0.05]), {}

    def recall(values, rung):
        if values.outer_lr not in begun:
            begun[values.outer_lr] = next(recalls)
        return begun[values.outer_lr]

    made = test_hpo_search.spec(trials=6)
    trials = test_hpo_search.run(database, made, lambda *given: test_hpo_search.simulated(*given, recall))
    again = [trial for trial in trials if chain_of(trial) != trial.number and trial.state == TrialState.COMPLETE]
    assert again
    for trial in again:
        [found] = get_all_artifact_meta(trial, storage=database.storage)
        assert artifacts.parse(found.artifact_id) == artifacts.checkpoint(made.name, chain_of(trial))


def test_a_checkpoint_comes_from_the_shared_store_if_it_is_not_here(database, tmp_path, monkeypatch):
    """Whoever watches a cluster has trained nothing on their own machine."""
    monkeypatch.setenv("HPO_ARTIFACTS", f"file://{tmp_path}/shared")
    searched(database, spec(NAME, trials=3))
    best = opened(database).best_trial
    shutil.rmtree(owned_search(database, NAME).folder)
    inner = unzipped(database, artifacts.checkpoint(NAME, chain_of(best)), tmp_path / "there")
    assert checkpoints.load(inner)[0]["weight"][0] == pytest.approx(best.value)


def test_a_checkpoint_that_is_gone_or_altered_is_said_to_be(database, study):  # noqa: F811
    """A file that is not what was trained is worse than none."""
    number = chain_of(opened(database).best_trial)
    made, folder = artifacts.checkpoint(NAME, number), owned_search(database, NAME).trial_folder(number)
    (checkpoints.last_folder(folder) / checkpoints.WEIGHTS).write_bytes(b"other")
    with pytest.raises(ArtifactNotFound, match="truncated or altered"):
        Artifacts(database).open_reader(made.id)
    shutil.rmtree(folder)
    with pytest.raises(ArtifactNotFound, match=r"holds no checkpoint.*HPO_ARTIFACTS"):
        Artifacts(database).open_reader(made.id)


def test_report_and_export_are_artifacts_of_search_and_student(database, exported, tmp_path):
    """Both are on the disk of whoever ran the job, and nowhere on the page."""
    report, export = artifacts.report(NAME), artifacts.export(NAME, exported)
    listed = {meta.artifact_id: meta.filename for meta in get_all_artifact_meta(opened(database))}
    assert listed == {report.id: "shop-b-one-report.html", export.id: "shop-b-one-export-small.zip"}
    students = opened(database, f"{NAME}-distill")
    attributes = database.storage.get_study_system_attrs(students._study_id)
    taken = students.get_trials()[1]._trial_id
    assert {report.key_for(taken), export.key_for(taken)} <= attributes.keys()
    page = Artifacts(database).open(report.id)
    text = page.file.read().decode()
    assert (page.size, text.lower().startswith("<!doctype html>")) == (len(text.encode()), True)
    assert str(exported) in text
    inner = unzipped(database, export, tmp_path / "downloaded")
    assert {path.relative_to(inner) for path in inner.rglob("*")} == {
        path.relative_to(exported) for path in exported.rglob("*")
    }
    assert (inner / MANIFEST).read_bytes() == (exported / MANIFEST).read_bytes()


def test_nothing_is_registered_before_it_is_there(database, study):  # noqa: F811
    """A link that leads nowhere for an hour."""
    distilled(database, study)
    Page(database, study).write()
    assert get_all_artifact_meta(opened(database)) == []
    with pytest.raises(ArtifactNotFound, match="no student yet"):
        Artifacts(database).open_reader(artifacts.report(NAME).id)


def test_the_note_leads_to_each_of_them(database, exported):
    """Paths help on the machine alone where the study ran."""
    from optuna_dashboard._note import get_note

    search = opened(database)
    text, best = get_note(search), search.best_trial
    link = artifacts.address(search._study_id, artifacts.checkpoint(NAME, chain_of(best)), best._trial_id)
    assert f"[download]({link}) `{owned_search(database, NAME).trial_folder(chain_of(best))}`" in text
    assert f"[report]({artifacts.address(search._study_id, artifacts.report(NAME))})" in text
    export = artifacts.address(search._study_id, artifacts.export(NAME, exported))
    assert f"[download]({export}) `{exported}`" in text
    students = opened(database, f"{NAME}-distill")
    link = artifacts.attached_checkpoints(students)[0]
    assert f"[download]({link}) `{owned_distillation(database, NAME).trial_folder(0)}`" in get_note(students)


def altered(folder):
    (folder / HEAD).write_text("other")


def of_another_study(folder):
    shutil.rmtree(folder)
    write_export(folder, "0" * 32)


def leading_out(folder):
    (folder.parent / "secret").write_text("secret")
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["files"]["../secret"] = "0" * 64
    (folder / MANIFEST).write_text(json.dumps(manifest))


def linking_out(folder):
    (folder.parent / "secret").write_text("secret")
    (folder / LEXICON).unlink()
    (folder / LEXICON).symlink_to(folder.parent / "secret")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (shutil.rmtree, "not on this machine"),
        (altered, "altered or truncated"),
        (of_another_study, "of another study"),
        (leading_out, r"is not a manifest \(files\.\.\./secret"),
        (linking_out, "outside it"),
    ],
)
def test_only_what_an_export_was_is_served(database, exported, change, said):
    """The folder is open to whoever works on that machine, and the database names it."""
    change(exported)
    with pytest.raises(ArtifactNotFound, match=said):
        Artifacts(database).open_reader(artifacts.export(NAME, exported).id)


def test_a_folder_that_nobody_exported_to_is_not_read(database, exported, tmp_path):
    """An id is text that anybody can write."""
    write_export(tmp_path / "elsewhere", owned_search(database, NAME).id)
    with pytest.raises(ArtifactNotFound, match="was not exported to that folder"):
        Artifacts(database).open_reader(artifacts.export(NAME, tmp_path / "elsewhere").id)


def test_nothing_is_uploaded_or_removed(database):
    """Optuna's own upload into this store would be lost without a word."""
    store = Artifacts(database)
    with pytest.raises(InputError, match="neither uploaded nor deleted"):
        store.write("ab", None)
    with pytest.raises(InputError, match="hpo delete"):
        store.remove("ab")


def ask(url, method="GET", body=None):
    """Status, headers and answer of a request."""
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"}, method=method)
    try:
        with urllib.request.urlopen(request) as answer:
            return answer.status, answer.headers, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.headers, error.read()


@pytest.mark.parametrize("serving", [False, True], ids=["ordinary", "read-only"], indirect=True)
def test_the_server_gives_them_a_name_and_keeps_them_to_its_own_pages(database, exported, serving):  # noqa: F811
    """Any page that is open in the same browser could read checkpoints; curl would call each by its id."""
    search = opened(database)
    best = search.best_trial
    made = artifacts.checkpoint(NAME, chain_of(best))
    address = artifacts.address(search._study_id, made, best._trial_id)
    status, headers, body = ask(serving + address)
    assert (status, int(headers["Content-Length"]), body[:2]) == (200, len(body), b"PK")
    assert headers["Content-Disposition"].startswith(f'attachment; filename="{artifacts.checkpoint_name(made)}"')
    assert "Access-Control-Allow-Origin" not in headers
    status, headers, body = ask(serving + artifacts.address(search._study_id, artifacts.report(NAME)))
    assert (status, headers["Content-Type"]) == (200, "text/html")
    assert headers["Content-Disposition"].startswith("inline; ")
    shutil.rmtree(owned_search(database, NAME).trial_folder(chain_of(best)))
    status, headers, body = ask(serving + address)
    assert (status, "holds no checkpoint" in body.decode()) == (404, True)
    assert "Content-Disposition" not in headers
    upload = json.dumps({"file": "data:text/plain;base64,aGk=", "filename": "x.txt"}).encode()
    there = address.replace("/artifacts", "/api/artifacts", 1)
    for method, path, sent in (("POST", there.rpartition("/")[0], upload), ("DELETE", there, None)):
        status, _, words = ask(serving + path, method, sent)
        assert (status, b"read-only" in words or b"changes notes alone" in words) == (403, True)
    assert len(get_all_artifact_meta(best, storage=database.storage)) == 1


def test_a_store_that_does_not_answer_is_told(database, exported, serving, monkeypatch):  # noqa: F811
    """A traceback in the browser, or a checkpoint that seems to be gone."""
    monkeypatch.setenv("HPO_ARTIFACTS", "s3://nobody/nothing")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    search = opened(database)
    made = artifacts.checkpoint(NAME, chain_of(search.best_trial))
    status, _, words = ask(serving + artifacts.address(search._study_id, made, search.best_trial._trial_id))
    # A client keeps the address that it was made with, for the next test too.
    s3fs.S3FileSystem.clear_instance_cache()
    assert (status, "HPO_ARTIFACTS" in words.decode()) == (503, True)
