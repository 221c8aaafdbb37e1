"""`hpo recommend`: files in, lists out; bad files are named with their line."""

import json
import re
from pathlib import Path

import polars as pl
import pytest

import distill.export.writer as exporting
from hpo.serving.recommend import read_taken
from studies.config.hyperparameters import Hyperparameters
from studies.training.prepare import prepare
from tests.mini import call, hpo
from tests.served import export_to, untrained
from tests.synthetic import planted_dataset, tiny_encoder, tiny_spec

TEXTS = ["red acme lamp", "blue bolt lamp", "green acme chair", "red corvo chair"]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    problem = prepare(tiny_spec(tiny_encoder(folder / "bert")), folder / "cache", data=planted_dataset())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exporting, "_check_parity", lambda *_: None)  # slow, and shown elsewhere
        return export_to(problem, untrained(problem, Hyperparameters(learner="protonet")), folder / "student")


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """A catalogue, a support and histories, as a user would write them."""
    pl.DataFrame({"title": [*TEXTS, TEXTS[0]], "price": range(5)}).write_csv(tmp_path / "items.csv")
    (tmp_path / "items.txt").write_text("\n".join(TEXTS) + "\n")
    (tmp_path / "first.jsonl").write_text(
        json.dumps({"history": ["a towel"], "item": TEXTS[2]}) + "\n\n" + json.dumps({"history": [], "item": TEXTS[2]})
    )
    users = [{"user": "u1", "history": [TEXTS[0]]}, {"user": 2, "history": []}]
    (tmp_path / "users.jsonl").write_text("".join(json.dumps(user) + "\n" for user in users))
    return {path.name: path for path in tmp_path.iterdir()}


def arguments(files: dict[str, Path], catalogue: str = "items.csv", *more: str) -> list[str | Path]:
    own = ["--catalogue", files[catalogue], "--support", files["first.jsonl"], "--histories", files["users.jsonl"]]
    return [*own, *(["--text", "title"] if catalogue == "items.csv" else []), *more]


def test_lists_go_to_stdout_and_progress_to_stderr(exported: Path, files: dict[str, Path]) -> None:
    """A script reads one, a person the other; the support's item leads, and rows of one text are one item."""
    done = hpo("recommend", exported, *arguments(files), "--k", "3", "--json")
    assert done.returncode == 0, done.stderr
    first, second = map(json.loads, done.stdout.splitlines())
    assert (first["user"], second["user"]) == ("u1", 2)
    assert set(first["items"]) < set(TEXTS)
    assert len(first["items"]) == len(first["scores"]) == 3
    assert second["items"][0] == TEXTS[2]
    assert second["scores"] == sorted(second["scores"], reverse=True)
    assert "embedding the catalogue: 4/4" in done.stderr
    table = call("recommend", exported, *arguments(files, "items.txt"), "--k", "2")
    assert table.returncode == 0, table.stderr
    assert table.stdout.splitlines()[0].split() == ["user", "rank", "item", "score"]
    assert sum(text in table.stdout for text in TEXTS) >= 2
    # A text is a stranger's, and a terminal may obey what is in it.
    files["items.txt"].write_text("\n".join([*TEXTS, f"{TEXTS[2]}\x1b[2J\x9b31m"]) + "\n")
    for more in ("--k", "5"), ("--k", "5", "--json"):
        hostile = call("recommend", exported, *arguments(files, "items.txt", *more)).stdout
        assert "\\u001b[2J\\u009b31m" in hostile
        assert not re.search("[\x1b\x9b]", hostile)


def test_a_list_says_why_each_item_is_on_it(exported: Path, files: dict[str, Path]) -> None:
    """The item that the support took leads by the support; a user's history brings what is like it."""
    done = call("recommend", exported, *arguments(files), "--k", "3", "--explain", "--json")
    assert done.returncode == 0, done.stderr
    for line in map(json.loads, done.stdout.splitlines()):
        for score, reasons in zip(line["scores"], line["reasons"], strict=True):
            assert sum(reason["value"] for reason in reasons) == pytest.approx(score, abs=1e-5)
            sizes = [abs(reason["value"]) for reason in reasons]
            assert sizes == sorted(sizes, reverse=True)
    own = next(reason for reason in line["reasons"][0] if reason["name"] == "support counts")
    assert own["items"] == [[TEXTS[2], pytest.approx(own["value"])]]
    shown = call("recommend", exported, *arguments(files), "--k", "2", "--explain").stdout
    assert f"support counts {own['value']:+.2f} ({TEXTS[2]} {own['value']:+.2f})" in " ".join(shown.split())


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("first.jsonl", "", "is empty; give lines of the form"),
        (
            "first.jsonl",
            '{"history": [], "item": "red acme lamb"}',
            "line 1 takes 'red acme lamb', which the catalogue lacks",
        ),
        ("first.jsonl", "red acme lamp", "line 1 is not JSON"),
        ("first.jsonl", "[" * 100_000, "line 1 is not JSON"),
        ("first.jsonl", '{"history": [], "item": "\\ud800"}', "line 1 takes '\\ud800', which the catalogue lacks"),
        ("users.jsonl", '{"user": 1, "history": []}\n{"user": 2}', 'line 2 has a "history" that is not a list'),
        ("users.jsonl", '{"user": 1, "history": [" "]}', 'line 1 has a "history" that is not a list'),
        ("items.txt", "red acme lamp\n \ngreen acme chair\n", "line 2 has no text"),
    ],
)
def test_a_bad_line_is_named(files: dict[str, Path], name: str, content: str, message: str) -> None:
    """Among a million lines nobody finds the one that is wrong; the student need not be opened to see it."""
    files[name].write_text(content)
    done = call("recommend", "no-export", *arguments(files, "items.txt"))
    assert done.returncode == 2
    assert f"error: {files[name]}" in done.stderr or "error: the support" in done.stderr
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert done.stdout == ""


def test_a_bad_catalogue_or_export_is_named(files: dict[str, Path], tmp_path: Path) -> None:
    """A column's name is the most common mistake."""
    missing = call("recommend", "no-export", *arguments(files), "--text", "titel")
    assert missing.returncode == 2
    assert 'has no column "titel"; did you mean title?' in missing.stderr
    assert "--text" in missing.stderr
    pl.DataFrame({"text": ["a", "b"], "products": ["2", "many"]}).write_parquet(tmp_path / "items.parquet")
    files["items.parquet"] = tmp_path / "items.parquet"
    products = call("recommend", "no-export", *arguments(files, "items.parquet"))
    assert products.returncode == 2
    assert "items.parquet row 2 has products 'many'" in products.stderr
    none = call("recommend", tmp_path, *arguments(files))
    assert none.returncode == 2
    assert "is not an export" in none.stderr


def test_what_was_taken_elsewhere_comes_from_a_table(exported: Path, files: dict[str, Path], tmp_path: Path) -> None:
    """Counts of rows that were misread would be served in silence; a student that reads none must not pretend to."""
    path = tmp_path / "log.csv"
    pl.DataFrame({"title": TEXTS[:2], "time": ["2026-01-30", "2026-01-31 12:00"]}).write_csv(path)
    assert read_taken(path, "title") == [(TEXTS[0], 1769731200.0), (TEXTS[1], 1769860800.0)]
    refused = call("recommend", exported, *arguments(files), "--popularity", path)
    assert refused.returncode == 2
    assert "was trained on scenes that share no items" in refused.stderr
    pl.DataFrame({"title": TEXTS[:2], "time": ["2026-01-30", "soon"]}).write_csv(path)
    bad = call("recommend", "no-export", *arguments(files), "--popularity", path)
    assert bad.returncode == 2
    assert "log.csv row 3 has the time 'soon'; give dates" in bad.stderr
