"""Known classes: rows are divided without leaks, recalls average to scikit-learn's, one recipe trains and serves."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import sklearn.metrics as sk
import torch
from torch import Tensor

import distill.export.checks as export_checks
import distill.export.writer as exporting
from distill.export.manifest import read
from distill.export.parity import with_int8_logits, with_logits, with_pipeline, with_torch_logits
from distill.export.stacks.tei import broken_rules
from distill.export.tasks.explained import Explanations
from distill.export.tasks.explained_texts import explain
from distill.inference import StudentClassifier
from distill.objective import Distillation, StudentHyperparameters, Teacher, evaluate, load_student
from storage.errors import InputError, ScenetuneError
from studies.classification.data.class_selection import select_classes
from studies.classification.data.coding import build_labelled
from studies.classification.data.completejourney import LabelledCompleteJourney
from studies.classification.data.dataset import LabelledTexts
from studies.classification.data.source import LabelledRows
from studies.classification.known.audit import audit_batches, audit_rows
from studies.classification.known.batches import evaluation_batch, training_batches
from studies.classification.known.evaluate import evaluate_known
from studies.classification.known.problem import KnownClassesProblem
from studies.classification.known.row_split import split_rows
from studies.classification.protocol import ClassificationProtocol
from studies.config.definition import Precision
from studies.config.hyperparameters import Hyperparameters
from studies.config.spec import parse_spec
from studies.episodes.split import SPLIT_NAMES
from studies.text_form import join_pair
from studies.training.objective import run_trial
from studies.training.outer_loop import Trainer
from studies.training.prepare import prepare
from tests.labelled import planted_texts
from tests.served import export_to, untrained
from tests.synthetic import tiny_encoder
from tests.triton import Server

KNOWN = ClassificationProtocol(classes="known", train_episodes=12)
DATA = planted_texts(classes=8, per_class=24)
# What config.json may hold as names of classes.
ODD = ("0", "7", "1.5", "true", "LABEL_0", "Käse & Wurst, 北京", 'a "quoted" label', "null")


def known_study(encoder: Path, **sections: Mapping[str, Any]) -> dict[str, Any]:
    study: dict[str, Any] = {
        "name": "known",
        "task": "classification",
        "data": {"source": "completejourney"},
        "protocol": {"classes": "known", "train_episodes": 20},
        "teacher": {"encoder": str(encoder), "max_tokens": 16},
        "search": {"trials": 2, "space": {"trainable_layers": [0, 1]}},
        "pruner": {"rungs": [2, 60]},
        "distill": {"trials": 1, "embed_steps": 40, "rank_steps": 40},
    }
    return {name: {**study.get(name, {}), **sections[name]} if name in sections else study[name] for name in study}


def timed(*rows: tuple[str, str | None, int]) -> LabelledTexts:
    frame = pl.DataFrame(rows, schema={"text": pl.String, "label": pl.String, "time": pl.Int64}, orient="row")
    return build_labelled(LabelledRows(frame, rows_read=len(frame)))


def test_rows_are_divided_alike_in_each_class_and_groups_stay_whole() -> None:
    """A class that is only in the test could not be classified; a product in two sizes would be its own answer."""
    split = split_rows(DATA, KNOWN)
    assert split.by == "hash"
    assert sorted(np.concatenate(list(split.rows.values()))) == np.flatnonzero(DATA.label >= 0).tolist()
    for name in SPLIT_NAMES:
        assert set(DATA.label[split.rows[name]]) == set(range(8))
    groups = [set(DATA.group[split.rows[name]]) for name in SPLIT_NAMES]
    assert not groups[0] & groups[1]
    assert not (groups[0] | groups[1]) & groups[2]
    assert {found.status for found in audit_rows(DATA, split)} == {"ok"}
    ungrouped = build_labelled(
        LabelledRows(pl.DataFrame({"text": [f"text {i}" for i in range(50)], "label": ["a", "b"] * 25}), rows_read=50)
    )
    sizes = {name: len(rows) for name, rows in split_rows(ungrouped, KNOWN).rows.items()}
    assert sizes == {"train": 30, "validation": 10, "test": 10}
    assert np.array_equal(split_rows(DATA, KNOWN).rows["test"], split.rows["test"])
    other = KNOWN.model_copy(update={"seed": 1})
    assert not np.array_equal(split_rows(DATA, other).rows["test"], split.rows["test"])


def test_times_divide_rows_so_that_the_test_is_the_latest() -> None:
    """What is predicted tomorrow is learned from what is known today; a class that is new then cannot be known."""
    rows = [(f"text {i}", "ab"[i % 2], i // 2) for i in range(40)]
    data = timed(
        *rows, ("new", "c", 40), ("newer", "c", 41), ("newest", "c", 42), ("later", None, 50), ("early", None, 1)
    )
    selected = select_classes(data, LabelledCompleteJourney(source="completejourney"), KNOWN)
    assert selected.labels == ("a", "b")
    assert "1 of 3 classes without a training text; used as unlabelled texts: 3 rows." in selected.notes
    split = split_rows(selected, KNOWN)
    assert split.by == "time"
    times = [selected.time[split.rows[name]] for name in SPLIT_NAMES]
    assert times[0].max() < times[1].min() <= times[1].max() < times[2].min()
    assert split.until == times[1].min()
    with pytest.raises(InputError, match=r'split_by = "time", but the rows have too few different times'):
        split_rows(DATA, KNOWN.model_copy(update={"split_by": "time"}))
    assert split_rows(selected, KNOWN.model_copy(update={"split_by": "hash"})).by == "hash"


def test_batches_hold_each_row_once_in_a_pass_and_an_evaluation_every_row() -> None:
    """A row that no batch holds is never learned, one that is scored twice counts double."""
    split = split_rows(DATA, KNOWN)
    batches = training_batches(DATA, split, KNOWN.model_copy(update={"sampling": "natural"}))
    assert len(batches) == 12
    assert {len(batch.query) for batch in batches} == {16}
    seen = np.concatenate([batch.items[batch.query].numpy() for batch in batches])
    rows = len(split.rows["train"])
    assert len(set(seen[:rows])) == rows
    test = evaluation_batch(DATA, split, "test")
    assert sorted(test.items[test.query].tolist()) == sorted(DATA.text[split.rows["test"]].tolist())
    assert [found.status for found in audit_batches(DATA, split, "train", batches)] == ["ok"]
    assert [found.status for found in audit_batches(DATA, split, "train", [test])] == ["leak"]


def test_balanced_batches_hold_all_classes_alike_and_read_every_row_of_the_rare_ones() -> None:
    """Macro recall counts a class of three texts as much as one of three hundred."""
    rows = [(f"text {i}", "ab"[i % 10 == 0], 0) for i in range(300)]
    data = timed(*rows)
    split = split_rows(data, KNOWN)
    batches = training_batches(data, split, KNOWN)
    counts = [batch.query_labels.bincount().tolist() for batch in batches]
    assert counts == [[8, 8]] * 12
    seen = np.concatenate([batch.items[batch.query].numpy() for batch in batches])
    rare = data.text[split.rows["train"][data.label[split.rows["train"]] == 1]]
    times_seen = [int((seen == text).sum()) for text in rare]
    assert max(times_seen) - min(times_seen) <= 1
    common = seen[~np.isin(seen, rare)]
    assert len(set(common.tolist())) == len(common)  # 96 of 162: none twice before all were read
    assert {found.status for found in audit_batches(data, split, "train", batches)} == {"ok"}


class Given:
    """A system of fixed logits."""

    def __init__(self, logits: Tensor) -> None:
        self._logits = logits

    def logits(self, episode: object) -> Tensor:
        """Return them."""
        return self._logits


@pytest.mark.parametrize("classes", [2, 5, 40])
def test_the_mean_recall_is_macro_recall_whatever_the_sizes_of_classes(classes: int) -> None:
    """Few classes are resampled in parts: two recalls alone would say nothing of chance."""
    rng = np.random.default_rng(classes)
    label = np.concatenate([np.arange(classes).repeat(5), rng.zipf(1.5, 200) % classes])
    frame = pl.DataFrame({"text": [f"text {i}" for i in range(len(label))], "label": [f"class {c:02}" for c in label]})
    data = build_labelled(LabelledRows(frame, rows_read=len(frame)))
    batch = evaluation_batch(data, split_rows(data, KNOWN), "train")
    truth = batch.query_labels.numpy()
    logits = torch.from_numpy(rng.normal(size=(len(truth), classes)) + 2 * np.eye(classes)[truth])
    predicted = logits.argmax(1).numpy()
    found = evaluate_known(Given(logits), batch, data.labels)
    assert found.mean() == pytest.approx(sk.balanced_accuracy_score(truth, predicted))
    assert found.mean("accuracy") == pytest.approx(sk.accuracy_score(truth, predicted))
    assert found.mean("f1") == pytest.approx(sk.f1_score(truth, predicted, average="macro"))
    smallest = int(np.bincount(truth).min())
    assert len(found.scenes) == classes * min(-(-30 // classes), smallest)
    if classes == 2:
        score = (logits[:, 1] - logits[:, 0]).numpy()
        assert found.mean("roc_auc") == pytest.approx(sk.roc_auc_score(truth, score))
        assert found.mean("average_precision") == pytest.approx(sk.average_precision_score(truth, score))
    if classes == 40:
        assert set(found.scenes) == set(data.labels)
    perfect = evaluate_known(Given(torch.eye(classes)[batch.query_labels]), batch, data.labels)
    assert set(perfect.values()) == {1.0}


@pytest.fixture(scope="module")
def problem(tmp_path_factory: pytest.TempPathFactory) -> KnownClassesProblem:
    """A study of eight classes."""
    folder = tmp_path_factory.mktemp("known")
    made = prepare(parse_spec(known_study(tiny_encoder(folder / "bert"))), folder / "cache", data=DATA)
    assert isinstance(made, KnownClassesProblem)
    return made


VALUES = Hyperparameters(
    learner="finetune", temperature=0.1, trainable_layers=1, outer_lr=1e-2, encoder_lr=1e-3, meta_batch_size=2
)


@pytest.fixture(scope="module")
def teacher(problem: KnownClassesProblem, tmp_path_factory: pytest.TempPathFactory) -> Teacher:
    """Fine-tuned to the last rung, as a trial of the search is."""
    learner = problem.learner(VALUES)
    Trainer(learner, problem.train, 60, 0).train_to(60)
    return Teacher(0, problem.evaluate(learner, problem.validation).mean(), learner)


def test_fine_tuning_learns_the_classes_and_a_trial_resumes(problem: KnownClassesProblem, tmp_path: Path) -> None:
    """The vectors that training learns classify in evaluation, by every row of the split."""
    reports = []
    recall = run_trial(problem, VALUES, tmp_path, reports.append)
    untrained = problem.evaluate(problem.learner(VALUES), problem.validation).mean()
    assert recall > untrained + 0.2
    assert set(reports[-1].scene_recalls) == problem.scene_names("validation")
    assert np.mean(list(reports[-1].scene_recalls.values())) == pytest.approx(recall)
    assert run_trial(problem, VALUES, tmp_path, reports.append) == recall
    assert problem.redrawn("validation", 3) == []
    assert problem.by_shots("test") == {}


def test_baselines_learn_from_the_training_rows(problem: KnownClassesProblem) -> None:
    """As scikit-learn would score them on the same rows; the label of a test row is never read."""
    recalls = {name: problem.score(system, problem.test).mean() for name, system in problem.baselines("test").items()}
    assert recalls["majority"] == pytest.approx(1 / 8)
    assert recalls["TF-IDF logistic regression"] > 0.9
    reference = problem.evaluate_reference(problem.test).mean()
    assert recalls[problem.reference] == pytest.approx(reference)


def test_no_text_of_validation_or_test_is_distilled(problem: KnownClassesProblem) -> None:
    """Their texts are what the student is scored on; the unlabelled ones may be read."""
    visible = set(problem.visible_items.tolist())
    held = {text for name in ("validation", "test") for text in DATA.text[problem.split.rows[name]].tolist()}
    assert not visible & held
    assert visible | held == set(DATA.text.tolist())


def test_a_student_is_distilled_exported_and_serves_its_classes(
    problem: KnownClassesProblem, teacher: Teacher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the folder alone, with our library or without, come the probabilities that the student was scored with."""
    distillation = Distillation(problem, [teacher])
    values = StudentHyperparameters(layers=1, lr=3e-3)
    before = evaluate(distillation.start(values), problem, problem.validation).mean()
    after = distillation.run_trial(values, tmp_path / "trial", lambda reached: None)
    assert after > before
    student = load_student(problem, tmp_path / "trial")
    student.head.labels = ODD
    monkeypatch.setattr(exporting, "_check_parity", lambda *_: None)  # slow, and shown elsewhere
    formats = ["hf", "onnx", "onnx-int8", "triton", "pt2"]
    folder = export_to(problem, student, tmp_path / "export", formats=formats)
    served = StudentClassifier.load(folder)
    classifier = served.trained()
    assert classifier.labels == ODD
    (batch,) = problem.test
    texts = [DATA.texts[item] for item in batch.items[batch.query].tolist()]
    right = [
        label == ODD[code] for label, code in zip(classifier.predict(texts), batch.query_labels.tolist(), strict=True)
    ]
    found = evaluate(student, problem, problem.test)
    assert np.mean(right) == pytest.approx(found.mean("accuracy"))
    assert "classifies texts among the classes" in (folder / "README.md").read_text()
    wanted = classifier.probabilities(texts)
    exact = (with_pipeline, with_logits, with_torch_logits, on_triton)
    for opener, atol in (*((each, 1e-5) for each in exact), (with_int8_logits, 0.2)):
        torch.testing.assert_close(opener(folder, list(texts)), wanted, atol=atol, rtol=0)
    assert (folder / "triton/tiny-encoder/labels.txt").read_text().splitlines() == list(ODD)
    assert broken_rules(folder) == []
    assert explain(problem, folder) == Explanations()  # it adapts to no labelled texts that could be near
    with pytest.raises(InputError, match="classifies among the 8 classes that it was trained on"):
        served.adapt({"a": ["x"], "b": ["y"]})
    manifest = json.loads((folder / "manifest.json").read_text())
    for labels, said in (([], "has 0 labels, a classifier at least 2"), (ODD[1:], "classifier.weight is F32 of 8")):
        (folder / "manifest.json").write_text(json.dumps(manifest | {"labels": labels}))
        with pytest.raises(InputError, match=said):
            StudentClassifier.load(folder).trained().predict(texts)


def on_triton(folder: Path, texts: list[Any]) -> torch.Tensor:
    """The probabilities of the logits of an export's Triton repository."""
    (found,) = Server(folder / "triton", "tiny").infer([[[text] for text in texts]])
    return torch.from_numpy(found["logits"]).softmax(1)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_narrow_student_of_pairs_is_the_same_classifier_in_the_pipeline(
    problem: KnownClassesProblem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: Precision
) -> None:
    """Its projection to the teacher's width is for training alone: left in, nothing but our library could read it."""
    student = untrained(problem, VALUES, width=16)
    assert student.tower.projection is None
    items = torch.arange(4)
    assert student.tower.beside_teacher(student.tower(items)).shape == (4, problem.encoder.width)
    monkeypatch.setattr(exporting, "_check_parity", lambda *_: None)  # slow, and shown elsewhere
    folder = export_to(problem, student, tmp_path / "export", precision=precision)
    assert read(folder).dimensions == 16
    pairs = [["red acme", "attic lamp"], ["blue", "a hall lamp"], ["red acme kitchen lamp " * 20, "x"]]
    wanted = StudentClassifier.load(folder).trained().probabilities([join_pair(*pair) for pair in pairs])
    atol = 1e-5 if precision == "fp32" else 0.02
    torch.testing.assert_close(with_pipeline(folder, list(pairs)), wanted, atol=atol, rtol=0)


def test_probabilities_that_only_our_library_gives_are_not_exported(
    problem: KnownClassesProblem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the folder would open everywhere, and classify otherwise than its figures say."""
    student = untrained(problem, VALUES)
    texts = len(export_checks.PROBES)
    found = export_checks.Found({}, {"hf": torch.full((texts, 8), 1 / 8)})
    monkeypatch.setattr(export_checks, "fresh_process", lambda *_: found)
    with pytest.raises(ScenetuneError, match=r"\(hf\) classifies otherwise than the student"):
        export_to(problem, student, tmp_path / "export")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"search": {"space": {"learner": ["finetune", "anil"]}}}, "anil adapts to a support, and a study of known"),
        ({"protocol": {"ways": 5}}, 'ways has no use where classes = "known"'),
        ({"protocol": {"shots": 3}}, "shots has no use where"),
        ({"pruner": {"first_rung_scenes": 0.5}}, "first_rung_scenes has no use where classes are known"),
        ({"protocol": {"classes": "new", "batch": 32}}, 'batch has no use where classes = "new"; leave it out'),
    ],
)
def test_what_known_classes_cannot_use_is_refused(sections: dict[str, Any], message: str) -> None:
    """A key without effect would be believed to have one."""
    with pytest.raises(InputError, match=message):
        parse_spec(known_study(Path("minilm"), **sections))


def test_a_study_of_known_classes_searches_plain_fine_tuning_alone() -> None:
    """Nothing adapts, so no trial is spent on parameters of adapting; a stored study reads the same again."""
    spec = parse_spec(known_study(Path("minilm")))
    assert spec.search.space["learner"] == ["finetune"]
    assert not {"inner_lr", "inner_steps", "support_batch_size", "class_names"} & spec.search.space.keys()
    assert parse_spec(spec.model_dump(mode="json")) == spec
