"""Known classes in scenes: scenes are divided without leaks, supports come first, all learners start at the classes."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import sklearn.metrics as sk
import torch
from sklearn.linear_model import LogisticRegression

import distill.export.writer as exporting
from distill.export.tasks.explained_texts import explain
from distill.inference import StudentClassifier
from distill.objective import Distillation, StudentHyperparameters, Teacher
from storage.errors import InputError
from studies.classification.data.coding import build_labelled
from studies.classification.data.dataset import LabelledTexts
from studies.classification.data.redemptions import read_redemptions
from studies.classification.data.source import LabelledRows
from studies.classification.episode import LabelledEpisode
from studies.classification.protocol import ClassificationProtocol
from studies.classification.scenes.audit import audit_scene_episodes, audit_scenes
from studies.classification.scenes.problem import KnownScenesProblem
from studies.classification.scenes.sampler import SceneSampler
from studies.classification.scenes.split import split_scenes
from studies.config.hyperparameters import Hyperparameters
from studies.config.spec import parse_spec
from studies.episodes.split import SPLIT_NAMES
from studies.evaluation.evaluate import ItemVectors
from studies.learners.registry import CLASSIFICATION_LEARNERS
from studies.model.device import full_precision
from studies.text_form import PAIR
from studies.training.outer_loop import Trainer
from studies.training.prepare import prepare
from tests.labelled import planted_scenes
from tests.served import export_to
from tests.synthetic import tiny_encoder

PROTOCOL = ClassificationProtocol(
    classes="known",
    scenes=True,
    split=(0.5, 0.25, 0.25),
    shots=2,
    report_shots=[1, 2],
    queries=6,
    episodes=10,
    train_episodes=60,
    batch=8,
)
DATA = build_labelled(planted_scenes())


def scenes_study(encoder: Path, **protocol: Any) -> dict[str, Any]:
    return {
        "name": "scenes",
        "task": "classification",
        "data": {"source": "files", "rows": "rows.csv", "text": "text", "scene": "scene", "time": "time"},
        "protocol": PROTOCOL.model_dump(mode="json", exclude={"scenes"}) | protocol,
        "teacher": {"encoder": str(encoder), "max_tokens": 16},
        "search": {"trials": 2, "space": {"trainable_layers": [0, 1]}},
        "distill": {"trials": 1, "embed_steps": 10, "rank_steps": 10},
    }


def changed(**columns: pl.Expr) -> LabelledTexts:
    rows = planted_scenes().rows.with_columns(**columns)
    return build_labelled(LabelledRows(rows, rows_read=len(rows)))


def support_of(episode: LabelledEpisode) -> list[int]:
    return episode.items[episode.support].tolist()


def queries_of(episode: LabelledEpisode) -> list[int]:
    return episode.items[episode.query].tolist()


@pytest.mark.parametrize("timed", [True, False])
def test_scenes_are_divided_and_training_ends_before_what_is_scored(timed: bool) -> None:
    """A campaign of the test is one that nothing was learned from, nor anything from its time."""
    data = DATA if timed else changed(time=pl.lit(0))
    split = split_scenes(data, PROTOCOL)
    assert split.by == ("time" if timed else "hash")
    assert sorted(np.concatenate(list(split.scenes.values()))) == list(range(12))
    assert {found.status for found in audit_scenes(data, split)} == {"ok"}
    rows = [split.rows[name] for name in SPLIT_NAMES]
    for name, own in zip(SPLIT_NAMES, rows, strict=True):
        assert set(data.scene[own]) == set(split.scenes[name])
    if timed:
        assert data.time[rows[0]].max() < split.until == data.time[rows[1]].min()
        assert data.time[rows[1]].max() < data.time[rows[2]].min()
        starts = [[data.time[data.scene == scene].min() for scene in split.scenes[name]] for name in SPLIT_NAMES]
        assert max(starts[0]) < min(starts[1])
        assert max(starts[1]) < min(starts[2])
        with pytest.raises(InputError, match=r"no row once their periods are cut .* change protocol"):
            split_scenes(data, PROTOCOL.model_copy(update={"split_by": "hash"}))
    else:
        other = split_scenes(data, PROTOCOL.model_copy(update={"seed": 1}))
        assert other.scenes["test"].tolist() != split.scenes["test"].tolist()
    with pytest.raises(InputError, match=r"0 of 12 scenes have rows of two classes and protocol\.min_scene_rows = 99"):
        split_scenes(data, PROTOCOL.model_copy(update={"min_scene_rows": 99}))


def test_a_group_or_a_text_of_a_test_scene_is_not_trained_on() -> None:
    """A household in two campaigns would be recognised; the test keeps its rows, training gives them up."""
    text = pl.col("text")
    data = changed(group=text.str.split(" ").list.first(), time=pl.lit(0))
    with pytest.raises(InputError, match="name a finer column in data"):
        split_scenes(data, PROTOCOL)  # colours are in all scenes
    data = changed(group=pl.format("{} {}", text.str.split(" ").list.slice(0, 2).list.join(" "), "label"))
    split = split_scenes(data, PROTOCOL)
    assert {found.status for found in audit_scenes(data, split)} == {"ok"}
    assert len(split.rows["train"]) < len(split_scenes(DATA, PROTOCOL).rows["train"])
    assert len(split.rows["test"]) == len(split_scenes(DATA, PROTOCOL).rows["test"])
    leaking = replace(split, rows=split.rows | {"train": np.flatnonzero(np.isin(data.scene, split.scenes["train"]))})
    worst = {found.check: found.status for found in audit_scenes(data, leaking)}
    assert worst["groups in two splits"] == "leak"
    sampler = SceneSampler(data, split, PROTOCOL)
    for episode in sampler.sample("validation"):
        groups = [
            {data.group[(data.text == text) & (data.scene == episode.scene)][0] for text in side}
            for side in (support_of(episode), queries_of(episode))
        ]
        assert not groups[0] & groups[1]


@pytest.mark.parametrize("timed", [True, False])
def test_a_support_is_the_first_of_each_class_and_queries_come_later(timed: bool) -> None:
    """What is labelled later is not known yet; a scene with a single positive is still a scene."""
    early = (pl.col("scene") == "store 11") & (pl.col("time") < pl.col("time").max().over("scene") - 3600 * 20)
    rare = pl.when(early).then(pl.lit("kitchen")).otherwise(pl.col("label"))
    data = changed(label=rare, **({} if timed else {"time": pl.lit(0)}))
    split = split_scenes(data, PROTOCOL)
    sampler = SceneSampler(data, split, PROTOCOL)
    rows = zip(data.text.tolist(), data.scene.tolist(), data.time.tolist(), strict=True)
    times = {(text, scene): time for text, scene, time in rows}
    for name in SPLIT_NAMES:
        episodes = sampler.sample(name)
        assert len(episodes) == (60 if name == "train" else 10)
        assert {episode.scene for episode in episodes} == set(split.scenes[name].tolist())
        assert {found.status for found in audit_scene_episodes(data, split, name, episodes)} == {"ok"}
        for episode in episodes:
            counts = episode.support_labels.bincount(minlength=episode.ways)
            assert 0 < counts.max() <= 2
            assert len(episode.query_labels.unique()) > 1
            assert len(episode.query) <= (8 if name == "train" else 6 * episode.ways)
            assert not set(support_of(episode)) & set(queries_of(episode))
            if timed:
                last = max(times[text, episode.scene] for text in support_of(episode))
                assert min(times[text, episode.scene] for text in queries_of(episode)) > last
        supports = list(map(support_of, episodes))
        assert supports == list(map(support_of, sampler.sample(name)))
        assert supports != list(map(support_of, sampler.sample(name, draw=1)))
    if timed:
        supports = [e.support_labels for e in sampler.sample("test") if data.scenes[e.scene] == "store 11"]
        assert min(len(labels.unique()) for labels in supports) == 1
    for one, two in zip(*sampler.nested("test", [1, 2]).values(), strict=True):
        assert queries_of(one) == queries_of(two)
        assert set(support_of(one)) < set(support_of(two))


def test_the_audit_finds_queries_that_are_no_later_than_their_support() -> None:
    """The sampler's own word is not taken for it."""
    split = split_scenes(DATA, PROTOCOL)
    (first, *_) = SceneSampler(DATA, split, PROTOCOL).sample("test")
    turned = replace(
        first,
        support=first.query,
        support_labels=first.query_labels,
        query=first.support,
        query_labels=first.support_labels,
    )
    found = {each.check: each.status for each in audit_scene_episodes(DATA, split, "test", [turned])}
    assert found["queries no later than their support"] == "leak"
    found = {each.check: each.status for each in audit_scene_episodes(DATA, split, "train", [first])}
    assert found["rows outside their split"] == "leak"


def test_coupons_are_pairs_of_what_was_bought_before_the_campaign_and_a_coupon(tmp_path: Path) -> None:
    """A purchase of the campaign's own weeks would tell who redeemed; a sampled negative must not be a redemption."""
    types = ["tea", "milk", "soap", "oats", "bread"]
    day = datetime(2017, 1, 1)
    bought = [(home, number, day + timedelta(days=3 * number)) for home in range(6) for number in (0, home % 3 + 1)]
    bought += [(home, 4, day + timedelta(days=50)) for home in range(6)]  # bread, after the campaign began
    tables = {
        "products": pl.DataFrame(
            {"product_id": range(5), "product_type": types, "product_category": types, "brand": ["own"] * 5}
        ),
        "coupons": pl.DataFrame({"coupon_upc": [1, 2, 1], "product_id": [0, 2, 0], "campaign_id": [7, 7, 8]}),
        "coupon_redemptions": pl.DataFrame(
            {"household_id": [0, 1], "coupon_upc": [1, 1], "campaign_id": [7, 7]}
        ).with_columns(redemption_date=pl.lit(day + timedelta(days=45))),
        "campaigns": pl.DataFrame({"campaign_id": [7] * 6 + [8], "household_id": [*range(6), 0]}),
        "campaign_descriptions": pl.DataFrame(
            {"campaign_id": [7, 8], "start_date": [day + timedelta(days=40), day + timedelta(days=2)]}
        ),
        "transactions": pl.DataFrame(
            bought, schema=["household_id", "product_id", "transaction_timestamp"], orient="row"
        ),
    }
    for name, table in tables.items():
        table.write_parquet(tmp_path / f"{name}.parquet")
    found = read_redemptions(tmp_path, negatives=3)
    rows = found.rows
    assert rows["label"].value_counts().sort("label").rows() == [("not redeemed", 6), ("redeemed", 2)]
    assert rows["scene"].unique().to_list() == ["campaign 07"]  # the other begins before there is a history
    assert rows["time"].n_unique() == 1
    assert not rows["text"].str.contains("bread").any()
    assert set(rows.filter(pl.col("label") == "redeemed")["text"]) == {
        f"{own} {PAIR} tea, tea, own" for own in ("milk, tea", "soap, tea")
    }
    assert "3 are sampled for each that was" in found.notes[0]


@pytest.fixture(scope="module")
def problem(tmp_path_factory: pytest.TempPathFactory) -> KnownScenesProblem:
    """A study of eight classes in twelve stores."""
    folder = tmp_path_factory.mktemp("scenes")
    made = prepare(parse_spec(scenes_study(tiny_encoder(folder / "bert"))), folder / "cache", data=DATA)
    assert isinstance(made, KnownScenesProblem)
    return made


def test_recall_is_averaged_by_scene_as_scikit_learn_would(problem: KnownScenesProblem) -> None:
    """Balanced accuracy over the classes that queries have; the baseline is scikit-learn's on the training rows."""
    rows = problem.training_rows
    vectors = torch.nn.functional.normalize(problem.cache.pooled(), dim=1).cpu().numpy()
    model = LogisticRegression(max_iter=1000, class_weight="balanced")
    model.fit(vectors[rows.items[rows.query].cpu()], rows.query_labels.cpu())
    by_scene: dict[str, list[float]] = {}
    for episode in problem.test:
        predicted = model.predict(vectors[episode.items[episode.query].cpu()])
        recall = sk.recall_score(
            episode.query_labels.cpu(), predicted, average="macro", labels=episode.query_labels.unique().cpu()
        )
        by_scene.setdefault(DATA.scenes[episode.scene], []).append(recall)
    found = problem.evaluate_reference(problem.test)
    assert {name: scene.recall for name, scene in found.scenes.items()} == pytest.approx(
        {name: np.mean(each) for name, each in by_scene.items()}
    )
    assert set(found.scenes) == problem.scene_names("test")
    recalls = {name: problem.score(system, problem.test).mean() for name, system in problem.baselines("test").items()}
    assert recalls[problem.reference] == pytest.approx(found.mean())
    assert recalls["majority"] < 0.2
    assert max(recalls["TF-IDF logistic regression, training rows"], recalls["TF-IDF centroids, training rows"]) > 0.9
    assert recalls["TF-IDF centroids, support alone"] > recalls["random"]


def values(learner: str) -> Hyperparameters:
    steps = {"inner_lr": 0.01, "inner_steps": 2} if CLASSIFICATION_LEARNERS[learner].takes_gradient_steps else {}
    return Hyperparameters(
        learner=learner,
        temperature=0.1,
        trainable_layers=1,
        outer_lr=1e-2,
        encoder_lr=1e-3,
        meta_batch_size=2,
        **steps,  # type: ignore[arg-type]
    )


@pytest.fixture(scope="module")
def trained(problem: KnownScenesProblem) -> Mapping[str, Any]:
    """Every learner after some updates."""
    found = {}
    for name in CLASSIFICATION_LEARNERS:
        found[name] = problem.learner(values(name))
        Trainer(found[name], problem.train, 4, 0).train_to(4)
    return found


@pytest.mark.parametrize("name", list(CLASSIFICATION_LEARNERS))
def test_every_learner_starts_at_the_classes_and_is_moved_by_a_support(
    problem: KnownScenesProblem, trained: Mapping[str, Any], name: str
) -> None:
    """Without a support a student knows the classes already; one without a class moves the others and keeps it."""
    learner, head = trained[name], trained[name].model.head
    assert not torch.equal(head.class_vectors, problem.learner(values(name)).model.head.class_vectors)
    with torch.no_grad():
        vectors = ItemVectors(learner.model.tower, problem.test, problem.tokens.lengths)
    direct, adapted = (
        problem.score(system, problem.test)
        for system in (problem.unadapted(learner, vectors), problem.adapted(learner, vectors))
    )
    assert min(direct.mean(), adapted.mean()) > 0.3  # chance is 1/8
    episode = problem.test[0]
    texts = vectors.of(episode)
    none = replace(episode, support=episode.support[:0], support_labels=episode.support_labels[:0])
    start, moved = (learner.adapt(each, texts) for each in (none, episode))
    if name != "ridge":  # whose weights are a solution, not vectors of length 1
        torch.testing.assert_close(start.class_weights, head.known_weights(episode.classes))
    assert not torch.equal(start.logits(texts), moved.logits(texts))
    kept = episode.support_labels != 0
    without = replace(episode, support=episode.support[kept], support_labels=episode.support_labels[kept])
    assert learner.adapt(without, texts).logits(texts).isfinite().all()


def test_a_student_adapts_to_a_scene_from_its_folder_alone(
    problem: KnownScenesProblem, trained: Mapping[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first labels of a campaign may be of one class; before them, what is known of the classes answers."""
    teacher = Teacher(0, 0.5, trained["protonet"])
    student = Distillation(problem, [teacher]).start(StudentHyperparameters(layers=1))
    monkeypatch.setattr(exporting, "_check_parity", lambda *_: None)  # slow, and shown elsewhere
    folder = export_to(problem, student, tmp_path / "export")
    assert "adapts to new scenes" in (folder / "README.md").read_text()
    served = StudentClassifier.load(folder)
    episode = problem.test[0]
    support, asked = ([DATA.texts[item] for item in side(episode)] for side in (support_of, queries_of))
    labels = [DATA.labels[code] for code in episode.classes[episode.support_labels].tolist()]
    found = served.adapt(list(zip(support, labels, strict=True))).probabilities(asked)
    with full_precision(), torch.no_grad():
        vectors = ItemVectors(student.tower, [episode], problem.tokens.lengths)
        expected = problem.adapted(student.learner, vectors).logits(episode).softmax(1)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
    explained = explain(problem, folder).episodes
    assert {each.name for each in explained} <= set(DATA.scenes)
    assert all(len(each.texts[0].nearest) == min(3, each.labelled) for each in explained)
    assert served.trained().labels == DATA.labels
    one = served.adapt([(support[0], labels[0])])
    assert one.labels == DATA.labels
    assert not torch.equal(one.probabilities(asked), served.trained().probabilities(asked))
    with pytest.raises(InputError, match="this student knows no class 'garage'; it classifies among the 8 classes"):
        served.adapt([(support[0], "garage")])


def test_known_classes_with_scenes_search_all_learners_and_no_names() -> None:
    """The vectors that training learns stand where names would; a stored study reads the same again."""
    spec = parse_spec(scenes_study(Path("minilm")))
    assert spec.protocol.scenes
    assert spec.search.space["learner"] == list(CLASSIFICATION_LEARNERS)
    assert "class_names" not in spec.search.space
    assert parse_spec(spec.model_dump(mode="json")) == spec
    assert {"shots", "queries", "batch", "split_by"} <= spec.protocol.effective.keys()
    assert not {"ways", "min_groups", "scenes"} & spec.protocol.effective.keys()
    with pytest.raises(InputError, match='ways has no use where classes = "known"; leave it out'):
        parse_spec(scenes_study(Path("minilm"), ways=4))
