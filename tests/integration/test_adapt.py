"""The encoder trained on the shop by the commands that a user types, and the search that takes it from there."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from hpo.adaptation import search
from hpo.adaptation.search import with_table
from hpo.ownership import load_record
from storage.database.postgres import Database
from storage.home import home
from studies.adaptation import stage
from studies.config.spec import load_spec
from studies.model import encoder as encoders
from studies.model.pooling import pool
from tests.forked import worker
from tests.mini import call, mini

ADAPT = """
[teacher.adapt]
objectives = ["mlm", "cooccurrence"]
steps = 6
batch_size = 16
within_days = 7
"""


def test_a_search_starts_from_the_encoder_that_was_trained_on_the_shop(
    database: Database, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is trained once: what `hpo adapt` was interrupted in, it resumes, and what it ended, workers take."""
    study, out = mini(tmp_path, trials=2, extra=ADAPT), tmp_path / "encoder"
    without = call("adapt", mini(tmp_path, name="plain"))
    assert (without.returncode, "has no table [teacher.adapt]" in without.stderr) == (2, True), without.stderr

    saved = stage.checkpoints.save
    with monkeypatch.context() as patch:

        def interrupt(folder: Path, step: int, *rest: object) -> None:
            saved(folder, step, *rest)  # type: ignore[arg-type]
            if step == 4:
                raise KeyboardInterrupt

        patch.setattr(stage, "SECONDS", 0.0)
        patch.setattr(stage.checkpoints, "save", interrupt)
        interrupted = call("adapt", study)
    assert (interrupted.returncode, "nothing finished is lost" in interrupted.stderr) == (130, True)

    done = call("adapt", study, "--out", out, "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["adaptation"]["steps"] == 6
    assert result["gain"]["mean"] == pytest.approx(result["after"]["mean"] - result["before"]["mean"])
    again = call("adapt", study, "--out", out)
    assert (again.returncode, "exists already: name another folder" in again.stderr) == (2, True), again.stderr

    # The folder gives the vectors of the weights that were trained, mean-pooled, and other ones than before.
    teacher = load_spec(study).teacher
    (stored,) = (home() / "artifacts" / "encoders").glob("*/adapted/*/weights.safetensors")
    opened, tokens = (
        AutoModel.from_pretrained(out),
        AutoTokenizer.from_pretrained(out)(["red lamp"], return_tensors="pt"),
    )
    assert (out / "1_Pooling" / "config.json").is_file()
    ours = encoders.load(teacher).read()
    general = pool(ours(**tokens).last_hidden_state, tokens["attention_mask"])
    ours.load_state_dict(stage.checkpoints.load(stored.parent)[0])
    vectors = pool(ours(**tokens).last_hidden_state, tokens["attention_mask"])
    torch.testing.assert_close(pool(opened(**tokens).last_hidden_state, tokens["attention_mask"]), vectors)
    assert not torch.allclose(general, vectors, atol=1e-4)

    before = stored.stat().st_mtime_ns
    with worker("mini", HPO_DATABASE_URL=database_url):
        launched = call("launch", study, "--engine", "external", "--json", HPO_DATABASE_URL=database_url)
    assert launched.returncode == 0, launched.stderr
    assert load_record(database, "mini").encoder == result["sha256"]
    assert stored.stat().st_mtime_ns == before


def test_a_search_for_the_table_resumes_and_prints_what_the_study_file_then_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its first setting is the study file's own; an interrupted one is tried again, and no setting twice."""
    monkeypatch.setattr(search, "STEPS", (2, 8))
    monkeypatch.setattr(search, "UPDATES", 2)
    study = mini(tmp_path, trials=2, extra=ADAPT)
    both = call("adapt", study, "--trials", "2", "--out", tmp_path / "encoder")
    assert (both.returncode, "--trials and --out do not go together" in both.stderr) == (2, True), both.stderr

    trained: list[tuple[list[str], int]] = []
    train = stage.AdaptationTrainer.train_to

    def interrupt(self: stage.AdaptationTrainer, step: int) -> None:
        if step == 1:
            trained.append((self._section.objectives, self._section.steps))
        if len(trained) == 2:
            raise KeyboardInterrupt
        train(self, step)

    with monkeypatch.context() as patch:
        patch.setattr(stage.AdaptationTrainer, "train_to", interrupt)
        interrupted = call("adapt", study, "--trials", "2")
    assert (interrupted.returncode, "nothing finished is lost" in interrupted.stderr) == (130, True), interrupted.stderr
    assert trained[0] == (["mlm", "cooccurrence"], 6)

    done = call("adapt", study, "--trials", "2", "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert {(tuple(each["objectives"]), each["steps"]) for each in result["trials"]} == {
        (tuple(objectives), steps) for objectives, steps in trained
    }
    best = result["trials"][0]
    assert best["recall"] - result["before"] == pytest.approx(best["gain"]["mean"])
    assert best["recall"] >= result["trials"][1]["recall"]
    assert result["table"]["objectives"] == best["objectives"]
    assert with_table(load_spec(study), result["table"]).teacher.adapt is not None

    shown = call("adapt", study, "--trials", "2")
    assert "setting" not in shown.stderr  # nothing is trained again
    assert "on other draws of the episodes" in shown.stdout
