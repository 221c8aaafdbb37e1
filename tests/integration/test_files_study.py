"""A user's own files, from the first check to a report, by the commands that a user types."""

import json
import re
from pathlib import Path

import ir_measures
import numpy as np
import polars as pl
import pytest
from ir_measures import R

from hpo import job
from hpo.results.exported import evaluate_export
from hpo.status.console import Console
from storage.database.postgres import connect
from storage.errors import InputError
from studies.config.spec import load_spec
from studies.evaluation.mixtures import MIXTURES
from tests.damages import DAMAGES
from tests.forked import worker
from tests.mini import call
from tests.synthetic import in_chinese, planted_dataset, tiny_encoder, write_shop

STUDY = """
name = "shop"
[data]
source = "files"
interactions = "purchases.parquet"
items = "catalogue.csv"
user = "customer"
item = "sku"
time = "bought_at"
scene = "department"
text = "title"
"""
# A shop and an encoder as small as a test needs.
SMALL = """
min_interactions = 100
min_users = 10
min_items = 8
[teacher]
encoder = "{encoder}"
max_tokens = 16
[protocol]
k = 5
shots = 3
report_shots = [1, 3, 8]
split = [0.5, 0.25, 0.25]
queries = 16
[search]
sampler = "grid"
[search.space]
learner = ["protonet", "finetune"]
outer_lr = 1e-3
weight_decay = 0.05
meta_batch_size = 4
inner_lr = 0.1
inner_steps = 2
head = "scalars"
trainable_layers = 0
[pruner]
kind = "none"
rungs = [2, 4]
[distill]
trials = 1
embed_steps = 2
rank_steps = 2
[distill.space]
teachers = 1
layers = 1
"""


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """A folder with a planted shop's files and its study file."""
    folder = tmp_path / "shop"
    folder.mkdir()
    write_shop(planted_dataset(), folder)
    (folder / "study.toml").write_text(STUDY + SMALL.format(encoder=tiny_encoder(tmp_path / "encoder")))
    return folder


def test_the_check_says_what_is_in_the_files_and_that_nothing_leaks(shop):
    """The first command a new user types: without it, a wrong column is found after an hour."""
    done = call("data", "check", shop / "study.toml", cwd=shop.parent)
    assert done.returncode == 0, done.stderr
    for words in ("rows read", "7,200", "interactions per scene", "leakage audit", "milliseconds", "warnings"):
        assert words in done.stdout
    report = json.loads(call("data", "check", shop / "study.toml", "--json", cwd=shop.parent).stdout)
    assert report["rows_read"] == report["interactions"] + sum(report["dropped"].values())
    assert sum(row["scenes"] for row in report["histogram"]) == report["scenes"] == 12
    assert report["error"] is None
    assert len(report["audit"]) == 10
    assert {finding["status"] for finding in report["audit"]} <= {"ok", "note"}
    assert [part["scenes"] for part in report["parts"].values()] == [6, 3, 3]
    cold = {name: part["without_history"] for name, part in report["parts"].items()}
    assert 0 < cold.pop("train") < report["parts"]["train"]["queries"], "the log's first days have no earlier ones"
    assert set(cold.values()) == {0}


def test_the_check_counts_the_queries_of_users_without_a_history(shop):
    """Figures of one-time customers are not those of known ones, and only the count shows it."""
    log = pl.read_parquet(shop / "purchases.parquet")
    log.with_columns(customer=pl.int_range(len(log))).write_parquet(shop / "purchases.parquet")
    done = call("data", "check", shop / "study.toml", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert [part["without_history"] for part in found["parts"].values()] == [
        part["queries"] for part in found["parts"].values()
    ]
    queries = found["parts"]["test"]["queries"]
    said = f"{queries:,} of {queries:,} meta-test queries come from users without a history"
    assert any(warning.startswith(said) for warning in found["warnings"])


def test_the_check_shows_what_was_read_even_where_no_study_is_possible(shop):
    """An error alone would leave the user to guess which of the minima is wrong."""
    study = shop / "study.toml"
    study.write_text(study.read_text().replace("min_users = 10", "min_users = 1000"))
    done = call("data", "check", study)
    assert done.returncode == 2
    assert "rows read" in done.stdout
    said = (
        r"error: none of the 12 scenes has .*min_users = 1000.*the largest scene has \d+.*lower them .* to min_users = "
    )
    assert re.search(said, done.stderr)
    assert "kept from" in done.stdout
    assert json.loads(call("data", "check", study, "--json").stdout)["error"].startswith("none of the 12 scenes")


def test_campaigns_of_three_weeks_are_a_study(tmp_path):
    """Split by hash, a campaign must happen to fall into its part's period: the check says so, and what helps."""
    rng, day = np.random.default_rng(0), 86_400
    with (tmp_path / "log.csv").open("w") as log:
        log.write("user_id,item_id,timestamp,campaign,title\n")
        for n in range(30):
            for _ in range(60):
                item, time = rng.integers(40), 1_600_000_000 + int((11 * n + 21 * rng.random()) * day)
                log.write(f"{rng.integers(90)},{item},{time},the campaign of week number {n},word{item % 7} w{item}\n")
    text = 'name = "c"\n[data]\nsource = "files"\ninteractions = "log.csv"\nscene = "campaign"\ntext = "title"\n'
    study = tmp_path / "study.toml"
    study.write_text(text + "[protocol]\nk = 5\n")
    found = json.loads(call("data", "check", study, "--json").stdout)
    assert (found["error"], found["split_by"], found["split_by_auto"], found["scenes"]) == (None, "opening", True, 30)
    assert [part["without_episodes"] for part in found["parts"].values()] == [[], [], []]
    assert found["minima"]["min_interactions"] == {"value": 30, "derived": True}
    study.write_text(text + '[protocol]\nk = 5\nsplit_by = "hash"\n')
    refused = call("data", "check", study)
    assert refused.returncode == 2
    assert re.search(r"error: only 0 of 6 meta-validation .*miss the openings.*split_by = \"opening\"", refused.stderr)
    assert re.search(r"no episode of validation: (the cam…\w+ \d+, ){2}the cam…\w+ \d+ and 3 more", refused.stdout)
    written = json.loads(call("data", "check", study, "--json").stdout)
    assert written["error"] in refused.stderr.replace("\n", " ")
    assert "the campaign of week number 1" in str(written["parts"])


def test_the_check_says_that_the_encoder_cannot_read_the_texts(shop):
    """320 Chinese titles under an English encoder went from check to recommendation without a word."""
    items = pl.read_csv(shop / "catalogue.csv", separator=";")
    chinese = [f"红色跑鞋{chr(0x4E00 + row)}" for row in range(len(items))]
    items.with_columns(title=pl.Series(chinese)).write_csv(shop / "catalogue.csv", separator=";")
    done = call("data", "check", shop / "study.toml")
    assert done.returncode == 0, done.stderr
    assert re.search(r"warnings\n.*does not know 100% of the texts' pieces, so that (\d+) of \1 texts", done.stdout)
    warnings = json.loads(call("data", "check", shop / "study.toml", "--json").stdout)["warnings"]
    assert any("does not know 100% of the texts' pieces" in line for line in warnings)


def test_the_documented_study_of_cold_users_passes_the_check(tmp_path):
    """A recipe without its minima finds that no user has the 100 users of a scene."""
    page = (Path(__file__).parents[2] / "docs" / "data.md").read_text()
    recipe = page.partition("## Cold users")[2].partition("```toml\n")[2].partition("```")[0]
    (tmp_path / "study.toml").write_text(recipe)
    write_shop(planted_dataset(per_user=240), tmp_path)
    done = call("data", "check", tmp_path / "study.toml", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert (report["error"], report["scenes"]) == (None, 60)
    assert [len(part["without_episodes"]) for part in report["parts"].values()] == [0, 0, 0]


def test_a_planted_leak_stops_the_check_and_the_study(shop, database_url):
    """A department logged twice, once under another name, would be tested on what it was trained on."""
    log, items = pl.read_parquet(shop / "purchases.parquet"), pl.read_csv(shop / "catalogue.csv", separator=";")
    twins = items.with_columns(pl.col("sku") + 100_000, pl.format("{} again", "department").alias("department"))
    pl.concat([items, twins]).write_csv(shop / "catalogue.csv", separator=";")
    log = pl.concat([log, log.with_columns(pl.col("sku") + 100_000)])
    bought = pl.from_epoch("bought_at", time_unit="ms").dt.to_string("iso")
    log.with_columns(
        bought_at=pl.concat_str(bought, pl.when(pl.col("customer") == "c0").then(pl.lit("Z")).otherwise(pl.lit("")))
    ).write_parquet(shop / "purchases.parquet")
    checked = call("data", "check", shop / "study.toml")
    assert checked.returncode == 2
    assert "leak" in checked.stdout
    assert "error: leakage audit: interactions in two splits" in checked.stderr
    started = call("launch", shop / "study.toml", HPO_DATABASE_URL=database_url)
    assert started.returncode == 2
    assert "error: leakage audit: interactions in two splits" in started.stderr
    # What is hardly meant is said before anything is worked on.
    assert started.stderr.count('warning: "bought_at" mixes times with and without a zone') == 1


@pytest.mark.slow
def test_a_users_files_become_a_student_and_a_report(shop, database_url, tmp_path):
    """The promise to a stranger with a parquet pair; and rankings that another evaluator scores the same.

    Every item of the shop is a candidate, so that what was taken in other scenes counts on the whole way. The shop is
    Chinese, under an encoder whose tokens are characters.
    """
    study = shop / "study.toml"
    items = pl.read_csv(shop / "catalogue.csv", separator=";")
    titles = [in_chinese(title) for title in items["title"]]
    items.with_columns(title=pl.Series(titles)).write_csv(shop / "catalogue.csv", separator=";")
    tiny_encoder(tmp_path / "encoder", sorted(set("".join(titles))))
    study.write_text(study.read_text().replace("[protocol]\n", '[protocol]\ncandidates = "all"\n'))
    run = ("run", study, "--json", "--engine", "external")
    with worker("shop", HPO_DATABASE_URL=database_url):
        done = call(*run, "--trec", "rankings", cwd=tmp_path, HPO_DATABASE_URL=database_url)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    systems = result["evaluation"]["systems"]
    assert {"random", "support popularity", "BM25", "item-kNN", "student"} <= systems.keys()
    assert {"popularity anywhere", *MIXTURES} <= systems.keys()
    assert (Path(result["export"]) / "popularity.safetensors").is_file()
    assert any(name.endswith("not adapted") for name in systems)
    # Plain fine-tuning is scored whether it wins the search or not.
    assert any(name.endswith("(finetune)") for name in systems)
    assert set(systems["student"]["by_shots"]) == {"1", "3", "8"}

    page = Path(result["report"])
    assert page == tmp_path / "reports" / "shop" / "report.html"
    assert "<svg" in page.read_text()
    assert json.loads(page.with_suffix(".json").read_text())["evaluation"] == result["evaluation"]
    assert "| student |" in page.with_suffix(".md").read_text()

    found = recall_of(tmp_path / "rankings", "student", 5)
    assert found == pytest.approx(systems["student"]["scene_recalls"], abs=1e-9)
    with pytest.raises(InputError, match="scored already"):
        job.run(connect(database_url), load_spec(study), Console(), out=Path(result["export"]), trec=tmp_path / "again")

    # The bytes count, not where they lie: the study goes on with moved data, and so does its export.
    moved = shop.rename(tmp_path / "elsewhere")
    again = call("run", moved / "study.toml", "--json", cwd=tmp_path, HPO_DATABASE_URL=database_url)
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["evaluation"] == result["evaluation"]
    with pytest.raises(InputError, match=r"purchases\.parquet does not exist"):
        evaluate_export(Path(result["export"]))
    dump = tmp_path / "dump"
    scored = call("evaluate", result["export"], "--study", moved / "study.toml", "--json", "--trec", dump)
    assert scored.returncode == 0, scored.stderr
    assert json.loads(scored.stdout)["recall"] == pytest.approx(systems["student"]["recall"], abs=1e-6)
    assert (dump / "qrels.txt").read_bytes() == (tmp_path / "rankings" / "qrels.txt").read_bytes()

    (tmp_path / "first.jsonl").write_text("\n".join(json.dumps({"history": [], "item": titles[0]}) for _ in range(3)))
    (tmp_path / "users.jsonl").write_text(json.dumps({"user": "客户", "history": [titles[1]]}, ensure_ascii=False))
    files = ("--support", tmp_path / "first.jsonl", "--histories", tmp_path / "users.jsonl", "--text", "title")
    listed = call("recommend", result["export"], "--catalogue", moved / "catalogue.csv", *files, "--k", "3", "--json")
    assert listed.returncode == 0, listed.stderr
    recommended = json.loads(listed.stdout)
    assert recommended["user"] == "客户"
    assert len(set(recommended["items"]) & set(titles)) == 3

    report = call("report", "shop", cwd=moved, HPO_DATABASE_URL=database_url)
    assert report.returncode == 0, report.stderr
    assert report.stdout.strip() == str(moved / "reports" / "shop" / "report.html")


def recall_of(folder: Path, system: str, k: int) -> dict[str, float]:
    """Recall by scene as ir-measures has it: queries averaged within openings, these within scenes."""
    qrels = ir_measures.read_trec_qrels(str(folder / "qrels.txt"))
    run = ir_measures.read_trec_run(str(folder / f"{system}.run"))
    values = pl.DataFrame(
        [(value.query_id, value.value) for value in ir_measures.iter_calc([R @ k], qrels, run)],
        schema=["query", "recall"],
        orient="row",
    )
    parts = values.with_columns(
        pl.col("query").str.splitn(":", 3).struct.rename_fields(["scene", "opened", "user"])
    ).unnest("query")
    scenes = (
        parts.group_by("scene", "opened").agg(pl.col("recall").mean()).group_by("scene").agg(pl.col("recall").mean())
    )
    return {name.replace("%20", " "): recall for name, recall in scenes.iter_rows()}


def test_baselines_need_neither_a_database_nor_a_search(shop, tmp_path, caplog):
    """What a search must beat is worth knowing before it is paid for; and damaged caches must not change it."""
    outputs = ("--out", tmp_path / "page", "--trec", tmp_path / "trec")
    done = call("baselines", shop / "study.toml", "--json", *outputs)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["part"] == "validation"
    popularity = result["systems"]["support popularity"]
    assert recall_of(tmp_path / "trec", "support_popularity", 5) == pytest.approx(popularity["scene_recalls"], abs=1e-9)
    assert "Only baselines were scored" in (tmp_path / "page" / "report.md").read_text()
    assert not (tmp_path / "hpo" / "postgres").exists()

    damaged = [next((tmp_path / "hpo" / "cache").glob(f"**/{name}")) for name in ("pooled.npy", "time.parquet")]
    for file in damaged:
        file.write_bytes(DAMAGES["zeroed"](file.read_bytes()))
    again = call("baselines", shop / "study.toml", "--json")
    assert json.loads(again.stdout)["systems"] == result["systems"]
    assert [caplog.text.count(f"damaged cache: {file} was truncated or altered") for file in damaged] == [1, 1]
