"""Known classes from a CSV file of pairs of texts and labels to labelled texts, by the commands that a user types."""

import json
from pathlib import Path

import polars as pl
import pytest

from tests.labelled import planted_rows
from tests.mini import call
from tests.synthetic import tiny_encoder

STUDY = """
name = "departments"
task = "classification"
[data]
source = "files"
rows = "rows.csv"
text = "colour"
text_pair = "title"
group = "group"
[protocol]
classes = "known"
train_episodes = 30
[teacher]
encoder = "encoder"
max_tokens = 16
[search]
trials = 2
[search.space]
trainable_layers = 1
outer_lr = 1e-2
encoder_lr = 1e-3
meta_batch_size = 2
[pruner]
kind = "none"
rungs = [60]
[finalists]
count = 1
[distill]
trials = 1
embed_steps = 30
rank_steps = 30
[distill.space]
layers = 1
teachers = 1
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with labelled pairs of texts, an encoder and a study file."""
    rows = planted_rows(classes=6, per_class=24, unlabelled=60).rows
    parts = pl.col("text").str.splitn(" ", 2).struct
    rows = rows.with_columns(colour=parts.field("field_0"), title=parts.field("field_1")).drop("text")
    rows.write_csv(tmp_path / "rows.csv")
    tiny_encoder(tmp_path / "encoder")
    (tmp_path / "study.toml").write_text(STUDY)
    return tmp_path


def test_texts_are_classified_among_the_classes_of_a_file(folder: Path) -> None:
    """What is searched, distilled and exported classifies new texts without a labelled one."""
    checked = call("data", "check", "study.toml", "--json", cwd=folder)
    assert checked.returncode == 0, checked.stderr
    parts = json.loads(checked.stdout)["parts"]
    assert {name: part["classes"] for name, part in parts.items()} == {"train": 6, "validation": 6, "test": 6}
    done = call("run", "study.toml", "--workers", "1", "--out", "export", "--json", cwd=folder)
    assert done.returncode == 0, done.stderr
    evaluation = json.loads(done.stdout)["evaluation"]
    assert evaluation["metric"] == "macro recall"
    assert evaluation["shots"] == 0
    assert evaluation["queries"] == parts["test"]["queries"]
    systems = {name: system["recall"]["mean"] for name, system in evaluation["systems"].items()}
    assert systems["majority"] == pytest.approx(1 / 6)
    assert evaluation["search_gain"]["default"]["system"] in systems
    assert systems[evaluation["best_teacher"]] > systems[evaluation["reference"]]
    assert {"student", "student, labels alone", "TF-IDF logistic regression"} <= systems.keys()
    report = next(folder.glob("reports/**/report.html")).read_text()
    assert "how well texts of known classes are told apart" in report
    assert "labelled texts of each class" not in report
    manifest = json.loads((folder / "export" / "manifest.json").read_text())
    assert manifest["formats"]["hf"]["classifier_agreement"] == 1, "transformers' pipeline on pairs"
    assert manifest["opens_with"].startswith("transformers.pipeline(")
    asked = ["classify", "export", "--texts", "rows.csv", "--text", "colour"]
    known = call(*asked, "--pair", "title", "--out", "sorted.csv", "--probabilities", cwd=folder)
    assert known.returncode == 0, known.stderr
    rows = pl.read_csv(folder / "sorted.csv").with_columns(truth=pl.read_csv(folder / "rows.csv")["label"])
    right = rows.drop_nulls("truth").select((pl.col("label") == pl.col("truth")).mean()).item()
    assert right > 2 / 6
    for more, message in (
        (["--pair", "title", "--support", "rows.csv"], "classifies among the 6 classes that it was trained on"),
        ([], "reads pairs of texts: name the column of the second with --pair"),
    ):
        refused = call(*asked, *more, cwd=folder)
        assert refused.returncode == 2
        assert message in refused.stderr
