"""Known classes from a CSV file of texts and labels to labelled texts, by the commands that a user types.

Without scenes, of pairs of texts, the classes are learned once; with scenes, a student adapts to each.
"""

import json
import re
from pathlib import Path

import polars as pl
import pytest

from tests.forked import worker
from tests.labelled import planted_rows, planted_scenes
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
    with worker("departments"):
        done = call("run", "study.toml", "--engine", "external", "--out", "export", "--json", cwd=folder)
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


# The same study of texts that are no pairs, in stores that open one after the other.
SCENES = {
    'text = "colour"\ntext_pair = "title"\ngroup = "group"': 'text = "text"\nscene = "scene"\ntime = "time"',
    "train_episodes = 30": "train_episodes = 30\nshots = 2\nreport_shots = [1, 2]\nqueries = 4\nepisodes = 6\n"
    "split = [0.5, 0.25, 0.25]",
    "trainable_layers = 1": 'learner = ["protonet", "anil"]\ninner_lr = 0.01\ninner_steps = 1\ntrainable_layers = 1',
    "rungs = [60]": "rungs = [20]",
}


@pytest.mark.slow
def test_a_student_of_known_classes_adapts_to_a_new_store(folder: Path) -> None:
    """Stores are divided, figures are means over them, and the first labels of a new one may be of one class."""
    study = STUDY
    for old, new in SCENES.items():
        assert old in study
        study = study.replace(old, new)
    (folder / "study.toml").write_text(study)
    rows = planted_scenes().rows
    rows.write_csv(folder / "rows.csv")
    checked = call("data", "check", "study.toml", "--json", cwd=folder)
    assert checked.returncode == 0, checked.stderr
    found = json.loads(checked.stdout)
    assert {finding["status"] for finding in found["audit"]} == {"ok"}
    scenes = {part: {row["scene"] for row in found["by_scene"] if row["part"] == part} for part in found["parts"]}
    assert [len(names) for names in scenes.values()] == [6, 3, 3]
    assert re.search(r"store 11 +test +48 +8", call("data", "check", "study.toml", cwd=folder).stdout)
    with worker("departments"):
        done = call("run", "study.toml", "--engine", "external", "--out", "export", "--json", cwd=folder)
    assert done.returncode == 0, done.stderr
    evaluation = json.loads(done.stdout)["evaluation"]
    assert (evaluation["shots"], evaluation["scenes"], evaluation["data"]["split_by"]) == (2, 3, "opening")
    systems = evaluation["systems"]
    assert set(systems["student"]["scene_recalls"]) == scenes["test"]
    assert set(systems["student"]["by_shots"]) == {"1", "2"}
    assert {"TF-IDF logistic regression, training rows", f"{evaluation['best_teacher']}, not adapted"} <= systems.keys()
    report = next(folder.glob("reports/**/report.md")).read_text()
    for words in ("known classes are told apart in new scenes", "when they start", "| store 11 |", "| batch |"):
        assert words in report
    assert "| ways |" not in report
    support = rows.filter(pl.col("scene") == "store 11").head(1)
    support.write_csv(folder / "support.csv")
    known, adapted = (
        call("classify", "export", "--texts", "rows.csv", *more, "--json", cwd=folder)
        for more in ((), ("--support", "support.csv"))
    )
    assert (known.returncode, adapted.returncode) == (0, 0), known.stderr + adapted.stderr
    assert known.stdout != adapted.stdout
    assert {json.loads(line)["label"] for line in adapted.stdout.splitlines()} <= set(rows["label"])
    support.with_columns(label=pl.lit("garage")).write_csv(folder / "support.csv")
    refused = call("classify", "export", "--texts", "rows.csv", "--support", "support.csv", cwd=folder)
    assert (refused.returncode, "this student knows no class 'garage'" in refused.stderr) == (2, True)
