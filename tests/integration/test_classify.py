"""`hpo classify`: labelled and new texts in, labels out; bad files are named with their row."""

import json
import re
from pathlib import Path

import polars as pl
import pytest

import distill.export.writer as exporting
from studies.config.hyperparameters import Hyperparameters
from studies.training.prepare import prepare
from tests.labelled import planted_texts
from tests.labelled_study import tiny_labelled_spec
from tests.mini import call, hpo
from tests.served import export_to, untrained
from tests.synthetic import planted_dataset, tiny_encoder, tiny_spec

SUPPORT = """text,label
red acme kitchen lamp,lamps
"blue bolt, kitchen lamp",lamps
green acme attic chair,chairs
black delta attic chair,
"""
NEW = ["red corvo kitchen lamp", "white elba attic chair", "red corvo kitchen lamp"]


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A classifier and a recommender."""
    folder = tmp_path_factory.mktemp("studies")
    encoder, cache = tiny_encoder(folder / "bert"), folder / "cache"
    texts = planted_texts(classes=16, per_class=12)
    protonet = Hyperparameters(learner="protonet", temperature=0.1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exporting, "_check_parity", lambda *_: None)  # slow, and shown elsewhere
        labels = prepare(tiny_labelled_spec(encoder), cache, data=texts)
        shop = prepare(tiny_spec(encoder), cache, data=planted_dataset())
        return {
            "classifier": export_to(labels, untrained(labels, protonet), folder / "classifier"),
            "recommender": export_to(shop, untrained(shop, Hyperparameters()), folder / "recommender"),
        }


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """A support and new texts, as a user would write them."""
    (tmp_path / "labelled.csv").write_text(SUPPORT)
    pl.DataFrame({"title": NEW, "price": range(3)}).write_csv(tmp_path / "new.csv")
    (tmp_path / "new.txt").write_text("\n".join(NEW) + "\n")
    return {path.name: path for path in tmp_path.iterdir()}


def arguments(files: dict[str, Path], texts: str = "new.txt", *more: str) -> list[str | Path]:
    return ["--support", files["labelled.csv"], "--texts", files[texts], *more]


def test_labels_go_to_stdout_or_a_file_and_notes_to_stderr(
    exports: dict[str, Path], files: dict[str, Path], tmp_path: Path
) -> None:
    """A script reads one, a person the other; every row has its label, repeated texts as well."""
    own = arguments(files, "new.csv", "--text", "title", "--support-text", "text")
    done = hpo("classify", exports["classifier"], *own, "--json", "--probabilities")
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["text"] for row in rows] == NEW
    for row in rows:
        assert set(row["probabilities"]) == {"lamps", "chairs"}
        assert row["probability"] == row["probabilities"][row["label"]] == max(row["probabilities"].values())
    assert "labelled.csv: 1 row has no label in column 'label'" in done.stderr.replace('"', "'")
    explained = call("classify", exports["classifier"], *own, "--json", "--explain")
    assert explained.returncode == 0, explained.stderr
    nearest = [json.loads(line)["nearest"] for line in explained.stdout.splitlines()]
    assert all(each["label"] in ("lamps", "chairs") for row in nearest for each in row)
    assert all(row[0]["similarity"] >= row[-1]["similarity"] for row in nearest)
    table = call("classify", exports["classifier"], *own, "--explain").stdout
    assert f"{nearest[0][0]['text']} ({nearest[0][0]['label']}, {nearest[0][0]['similarity']:.2f})" in table
    both = call("classify", exports["classifier"], *own, "--explain", "--out", tmp_path / "none.csv")
    assert (both.returncode, "leave one of them out" in both.stderr) == (2, True)
    out = tmp_path / "sorted" / "labels.csv"
    written = call("classify", exports["classifier"], *own, "--probabilities", "--out", out)
    assert written.returncode == 0, written.stderr
    assert written.stdout == ""
    assert f"written to {out}" in written.stderr
    table = pl.read_csv(out)
    assert table.columns == ["text", "label", "probability", "probability of lamps", "probability of chairs"]
    assert table["text"].to_list() == NEW
    assert table["label"].to_list() == [row["label"] for row in rows]
    assert table["probability"].to_list() == pytest.approx([row["probability"] for row in rows], abs=1e-6)
    again = call("classify", exports["classifier"], *own, "--out", out)
    assert again.returncode == 2
    assert "exists already" in again.stderr
    # A text is a stranger's, and a terminal may obey what is in it.
    files["new.txt"].write_text(f"{NEW[0]}\x1b[2J\x9b31m\n{'red ' * 400}\n")
    for more in ((), ("--json",), ("--probabilities",)):
        hostile = call("classify", exports["classifier"], *arguments(files, "new.txt", *more))
        assert hostile.returncode == 0, hostile.stderr
        assert "\\u001b[2J\\u009b31m" in hostile.stdout
        assert not re.search("[\x1b\x9b]", hostile.stdout)
        assert "1 of 2 texts are longer than the 16 tokens" in hostile.stderr
    files["labelled.csv"].write_text("text,label\na,b\nc,b\n")
    alone = call("classify", exports["classifier"], *own)
    assert (alone.returncode, "every labelled row of" in alone.stderr) == (2, True)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("labelled.csv", "text,lable\na,b\nc,d\n", 'has no column "label"; did you mean lable?'),
        ("labelled.csv", "title,label\na,b\nc,d\n", 'has no column "text"'),
        ("labelled.csv", "text,label\na,\nc, \n", "no row of"),
        (
            "labelled.csv",
            "text,label\na,b\nc,d\na ,d\n",
            'labelled.csv row 4 labels "a" "d", labelled.csv row 2 labels it',
        ),
        ("labelled.csv", "text,label\na,b\n ,d\n", "labelled.csv row 3 has a label, but no text"),
        ("labelled.csv", "text,label\n", "holds a header but no rows"),
        ("new.txt", "a\n \n", "new.txt line 2 has no text"),
        ("new.txt", "", "holds no texts"),
    ],
)
def test_a_bad_row_is_named(files: dict[str, Path], name: str, content: str, message: str) -> None:
    """Among a million rows nobody finds the one that is wrong; the student need not be opened to see it."""
    files[name].write_text(content)
    done = call("classify", "no-export", *arguments(files))
    assert done.returncode == 2
    assert message in done.stderr.splitlines()[-1]
    assert done.stderr.splitlines()[-1].startswith("error: ")
    assert str(files[name]) in done.stderr or files[name].name in done.stderr
    assert done.stdout == ""


def test_labels_that_are_probably_wrong_are_said(exports: dict[str, Path], files: dict[str, Path]) -> None:
    """Two spellings of a class are two classes, ids as labels a thousand: most labels are wrong."""
    files["labelled.csv"].write_text("text,label\nred lamp,Lamps\nblue lamp,lamps\ngreen chair,chairs\n")
    done = call("classify", exports["classifier"], *arguments(files))
    assert done.returncode == 0, done.stderr
    assert "by letter case or spaces only" in done.stderr
    files["labelled.csv"].write_text("text,label\n" + "".join(f"red lamp {i},{i}\n" for i in range(1000)))
    many = call("classify", exports["classifier"], *arguments(files))
    assert many.returncode == 0, many.stderr
    assert "1,000 classes are more than any student was trained to tell apart" in many.stderr


def test_an_export_of_the_other_task_says_which_command_it_is_for(
    exports: dict[str, Path], files: dict[str, Path], tmp_path: Path
) -> None:
    """Nothing in a folder's name says what is in it."""
    wrong = call("classify", exports["recommender"], *arguments(files))
    assert wrong.returncode == 2
    assert "holds a student of ranking, not of classification" in wrong.stderr
    assert "hpo recommend" in wrong.stderr
    (tmp_path / "first.jsonl").write_text(json.dumps({"history": [], "item": NEW[0]}))
    (tmp_path / "users.jsonl").write_text(json.dumps({"user": 1, "history": []}))
    given = ["--catalogue", files["new.txt"], "--support", tmp_path / "first.jsonl"]
    other = call("recommend", exports["classifier"], *given, "--histories", tmp_path / "users.jsonl")
    assert other.returncode == 2
    assert "holds a student of classification, not of ranking" in other.stderr
    assert "hpo classify" in other.stderr
