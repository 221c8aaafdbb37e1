"""A classifier's export serves what the student predicts, for any number of labelled texts, and refuses the rest."""

import json
import re
import shutil
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sklearn.linear_model import Ridge

import distill.export.checks as export_checks
import distill.export.writer as exporting
import distill.serving.backends as backends
from distill.export.tasks.classification import ClassificationExport
from distill.export.tasks.explained_texts import explain
from distill.inference import StudentClassifier, StudentRecommender, as_student, load_export
from distill.objective import Student, evaluate
from distill.serving.text_classifier import TextClassifier
from storage.errors import InputError, ScenetuneError
from storage.files.atomic import sha256
from studies.classification.episode import LabelledEpisode
from studies.classification.learning.adapted import AdaptedClassifier
from studies.config.hyperparameters import Hyperparameters
from studies.learners.registry import CLASSIFICATION_LEARNERS
from studies.learners.ridge import solve
from studies.model.device import full_precision
from studies.model.encoder import tokenize
from studies.training.prepare import prepare
from studies.training.problem import Problem
from tests.labelled import planted_texts
from tests.labelled_study import tiny_labelled_spec
from tests.served import export_to, run_example, untrained
from tests.synthetic import tiny_encoder

LABELLED = [
    ("red acme kitchen lamp", "lamps"),
    ("blue bolt kitchen lamp", "lamps"),
    ("green acme attic chair", "chairs"),
]
TEXTS = ["red corvo kitchen lamp", "white elba attic chair", "red corvo kitchen lamp"]


def values(learner: str, **more: Any) -> Hyperparameters:
    inner = {"inner_lr": 0.3, "inner_steps": 2} if CLASSIFICATION_LEARNERS[learner].takes_gradient_steps else {}
    return Hyperparameters(learner=learner, temperature=0.1, **{"class_names": "read"} | inner | more)


@pytest.fixture(scope="module")
def problem(tmp_path_factory: pytest.TempPathFactory) -> Problem:
    folder = tmp_path_factory.mktemp("study")
    spec = tiny_labelled_spec(tiny_encoder(folder / "bert"))
    return prepare(spec, folder / "cache", data=planted_texts(classes=16, per_class=12))


@pytest.fixture(scope="module")
def student(problem: Problem) -> Student:
    """Half as wide as its teacher; its learner keeps vectors of the training classes, which no export needs."""
    return untrained(problem, values("finetune"), width=16)


@pytest.fixture(scope="module")
def exported(problem: Problem, student: Student, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """In every format, with everything measured."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export_checks, "MAX_LOSS", 1.0)  # a handful of queries are no measure of recall
        folder = tmp_path_factory.mktemp("exports") / "student"
        return export_to(problem, student, folder, formats=["hf", "onnx", "onnx-int8"], checked=True)


@pytest.fixture(scope="module")
def served(exported: Path) -> StudentClassifier:
    return StudentClassifier.load(exported)


@pytest.fixture
def foreign(exported: Path, tmp_path: Path) -> Path:
    """A copy to change."""
    return Path(shutil.copytree(exported, tmp_path / "foreign"))


def unchecked(problem: Problem, student: Student, folder: Path) -> StudentClassifier:
    """The student from a folder that no fresh process has opened."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exporting, "_check_parity", lambda *_: None)
        return StudentClassifier.load(export_to(problem, student, folder))


def uneven(episode: LabelledEpisode) -> LabelledEpisode:
    """The episode without one labelled text of its first class."""
    return replace(episode, support=episode.support[1:], support_labels=episode.support_labels[1:])


def test_the_documented_example_runs(exported: Path) -> None:
    """An example that does not run is worse than none."""
    run_example(StudentClassifier, exported)


@pytest.mark.parametrize(
    ("learner", "class_names"), [*((learner, "read") for learner in CLASSIFICATION_LEARNERS), ("ridge", "ignore")]
)
def test_serving_classifies_as_the_evaluation_does(
    problem: Problem, tmp_path: Path, learner: str, class_names: str
) -> None:
    """For every learner, and for classes with different numbers of labelled texts, which no episode of a study has."""
    own = untrained(problem, values(learner, class_names=class_names))
    served = unchecked(problem, own, tmp_path / "out")
    for episode in (problem.validation[0], uneven(problem.validation[1])):
        with full_precision(), torch.no_grad():
            table = own.tower(episode.items)
        adapted: AdaptedClassifier = own.learner.adapt(episode, table)
        wanted = adapted.probabilities(table[episode.query]).detach()
        texts = [problem.data.texts[item] for item in episode.items.tolist()]
        labels = [texts[place] for place in episode.names.tolist()]
        pairs = zip(episode.support.tolist(), episode.support_labels.tolist(), strict=True)
        # In another order: neither the order of texts nor that of classes means anything.
        support = [(texts[place], labels[label]) for place, label in pairs][::-1]
        classifier = served.adapt(support)
        columns = [classifier.labels.index(label) for label in labels]
        asked = [texts[place] for place in episode.query.tolist()]
        found = classifier.probabilities(asked)
        torch.testing.assert_close(found[:, columns], wanted, atol=1e-4, rtol=1e-3)
        torch.testing.assert_close(found.sum(1), torch.ones(len(asked)))
        assert classifier.predict(asked) == [labels[label] for label in wanted.argmax(1).tolist()]
        renamed = served.adapt([(text, f"class {label}") for text, label in support]).probabilities(asked)
        assert torch.allclose(renamed, found, atol=1e-5) == (class_names == "ignore")


def test_a_student_reads_names_of_training_classes_but_of_no_other(problem: Problem) -> None:
    """The name of a held-out class is what its texts are told apart by; episodes of training need their own."""
    visible = {problem.data.texts[item] for item in problem.visible_items.tolist()}
    rows = {problem.data.texts[item] for item in problem.data.text.tolist()}
    train = {problem.data.labels[code] for code in problem.split.classes["train"].tolist()}  # type: ignore[attr-defined]
    assert visible - rows == train
    assert rows < visible
    assert set(problem.train[0].items.tolist()) <= set(problem.visible_items.tolist())


@pytest.mark.parametrize("learner", [name for name in CLASSIFICATION_LEARNERS if name != "ridge"])
def test_a_class_with_twice_as_many_labelled_texts_counts_as_much_as_the_others(problem: Problem, learner: str) -> None:
    """Whoever labels more of one class would see every text drawn to it; in a study all have equally many."""
    # A name counts as a fixed number of texts: beside more of them it is a smaller part.
    own, episode = untrained(problem, values(learner, class_names="ignore")), problem.validation[0]
    first = episode.support_labels == 0
    doubled = replace(
        episode,
        support=torch.cat([episode.support, episode.support[first]]),
        support_labels=torch.cat([episode.support_labels, episode.support_labels[first]]),
    )
    with full_precision(), torch.no_grad():
        table = own.tower(episode.items)
    once, twice = (own.learner.adapt(each, table).logits(table).detach() for each in (episode, doubled))
    torch.testing.assert_close(twice, once, atol=1e-4, rtol=1e-4)


def test_ridge_weighs_texts_as_other_libraries_do() -> None:
    """In the dual form a root that is missing somewhere still gives a solution, of another problem."""
    generator = torch.Generator().manual_seed(0)
    vectors, targets = (torch.randn(7, width, generator=generator, dtype=torch.float64) for width in (4, 3))
    counts = torch.tensor([3.0, 1, 1, 0.5, 2, 1, 1], dtype=torch.float64)
    penalty, intercept = torch.tensor(0.7, dtype=torch.float64), torch.tensor(0.3, dtype=torch.float64)
    weights, bias = solve(vectors, targets, penalty, intercept, counts)
    design = torch.cat([vectors, torch.full((7, 1), 0.3, dtype=torch.float64)], 1).numpy()
    theirs = Ridge(alpha=0.7, fit_intercept=False, solver="cholesky").fit(design, targets.numpy(), counts.numpy())
    np.testing.assert_allclose(torch.cat([weights, bias[:, None] / 0.3], 1).numpy(), theirs.coef_, rtol=1e-8)


def test_an_export_says_what_it_is_and_what_was_measured(problem: Problem, student: Student, exported: Path) -> None:
    """Without the task nobody knows what opens it; without figures nobody believes that a format costs nothing."""
    manifest = json.loads((exported / "manifest.json").read_text())
    assert manifest["task"] == manifest["spec"]["task"] == "classification"
    assert "lexicon.safetensors" not in manifest["files"]
    head = load_file(exported / "head.safetensors")
    assert "class_vectors" not in head
    assert "class_vectors" in student.head.state_dict(), "there is nothing to leave out"
    assert manifest["parameters"]["head"] == sum(tensor.numel() for tensor in head.values())
    formats = manifest["formats"]
    for name in ("hf", "onnx"):
        assert formats[name]["cosine"] >= 0.9999
        assert formats[name]["agreement"] == 1
    assert formats["hf"]["served_agreement"] == 1
    assert formats["hf"]["sentence_transformers_cosine"] >= 0.9999
    assert 0 < formats["onnx-int8"]["agreement"] <= 1
    full = evaluate(student, problem, problem.validation).mean()
    assert formats["onnx-int8"]["recall_fp32"] == pytest.approx(full, abs=1e-6)
    opened = load_export(exported)
    tokens = tokenize(opened.tokenizer, problem.data.texts, opened.max_tokens)
    again = evaluate(as_student(opened, tokens), problem, problem.validation)
    assert again.mean() == pytest.approx(full, abs=1e-6)


def test_the_cards_examples_run(exported: Path) -> None:
    """A card whose code fails is the first thing that a user meets."""
    card = (exported / "README.md").read_text()
    assert "- text-classification\n" in card
    assert "labels shared with the student 100.0%" in card
    names: dict[str, Any] = {}
    for block in card.split("```python\n")[1:]:
        exec(block.split("```")[0].replace("path/to/this/folder", str(exported)), names)
    assert names["labels"][0] in ("dairy", "drinks")


def test_probabilities_of_another_head_leave_nothing(
    problem: Problem, student: Student, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Vectors may agree and the labels not: what is served hangs on the head as well."""
    write = exporting.write_head

    def wrong(head: torch.nn.Module, *rest: Any) -> None:
        twisted = {name: value + 1.0 if name == "log_scale" else value for name, value in head.state_dict().items()}
        write(type("Head", (), {"state_dict": lambda _: twisted})(), *rest)

    monkeypatch.setattr(exporting, "write_head", wrong)
    with pytest.raises(ScenetuneError, match="classifies otherwise than the student"):
        export_to(problem, student, tmp_path / "out", checked=True)
    assert list(tmp_path.iterdir()) == []


def test_weights_that_only_round_may_change_probabilities_but_not_labels() -> None:
    """Else 8-bit weights would be refused for nothing, or exact ones accepted that differ."""
    task = ClassificationExport()
    own = torch.tensor([[0.6, 0.4], [0.6, 0.4], [0.6, 0.4]])
    theirs = torch.tensor([[0.6004, 0.3996], [0.7, 0.3], [0.4, 0.6]])
    assert task.same(own, theirs, exact=True).all(1).tolist() == [True, False, False]
    assert task.same(own, theirs, exact=False).all(1).tolist() == [True, True, False]


def test_labels_are_found_and_each_text_is_embedded_once(
    served: StudentClassifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A feed repeats its texts, in other spaces and forms, and embedding is what classifying costs."""
    seen: list[str] = []
    whole = backends.Embedder.embed

    def embed(self: Any, texts: Any, progress: Any = None) -> torch.Tensor:
        seen.extend(texts)
        return whole(self, texts, progress)

    monkeypatch.setattr(backends.Embedder, "embed", embed)
    reports: list[tuple[int, int]] = []
    classifier = served.adapt([*LABELLED, (f" {LABELLED[0][0]}\n", "lamps ")])
    assert classifier.labels == ("lamps", "chairs")
    found = classifier.probabilities([*TEXTS, f"{TEXTS[1]} "], lambda done, total: reports.append((done, total)))
    assert found.shape == (4, 2)
    assert torch.equal(found[0], found[2])
    assert torch.equal(found[1], found[3])
    assert not torch.equal(found[0], found[1])
    assert seen == [*(text for text, _ in LABELLED), *classifier.labels, *TEXTS[:2]]
    assert reports[-1] == (2, 2)
    torch.testing.assert_close(
        served.adapt({"lamps": [t for t, _ in LABELLED[:2]], "chairs": [LABELLED[2][0]]}).probabilities(TEXTS),
        found[:3],
    )
    assert classifier.predict([]) == []
    seen.clear()
    explained = classifier.explain([*TEXTS, LABELLED[1][0]], k=2)
    assert seen == [*TEXTS[:2], LABELLED[1][0]]
    torch.testing.assert_close(explained.probabilities[:3], found[:3])
    assert [len(each) for each in explained.nearest] == [2, 2, 2, 2]
    own, other = explained.nearest[3]
    assert (own.text, own.label, own.similarity) == (*LABELLED[1], pytest.approx(1, abs=1e-5))
    vectors = served.embed([LABELLED[1][0], other.text])
    assert other.similarity == pytest.approx(float(vectors[0] @ vectors[1]), abs=1e-5)
    assert served.count_cut([*TEXTS, "red " * 400]) == 1


def test_a_few_texts_are_explained_by_what_is_near_them(
    problem: Problem, exported: Path, served: StudentClassifier
) -> None:
    """A label beside the wrong text, or a neighbour from elsewhere, would explain what never happened."""
    episodes = {problem.scene_name(episode): episode for episode in problem.test}
    explained = explain(problem, exported).episodes
    assert len(explained) == 3
    for found in explained:
        episode = episodes[found.name]
        texts = [problem.data.texts[item] for item in episode.items.tolist()]
        labels = [problem.data.labels[code] for code in episode.classes.tolist()]
        places = zip(episode.support.tolist(), episode.support_labels.tolist(), strict=True)
        support = {texts[place]: labels[label] for place, label in places}
        places = zip(episode.query.tolist(), episode.query_labels.tolist(), strict=True)
        right = {texts[place]: labels[label] for place, label in places}
        assert (found.classes, found.labelled, len(found.texts)) == (3, len(support), 4)
        classifier = served.adapt(list(support.items()))
        wanted = classifier.explain([each.text for each in found.texts])
        for row, near, each in zip(wanted.probabilities, wanted.nearest, found.texts, strict=True):
            assert each.right == right[each.text]
            assert each.label == classifier.labels[int(row.argmax())]
            assert each.probability == pytest.approx(float(row.max()), abs=1e-5)
            assert [(n.text, n.label) for n in each.nearest] == [(n.text, n.label) for n in near]
            assert all(support[n.text] == n.label for n in each.nearest)


@pytest.mark.parametrize("backend", ["onnx", "onnx-int8"])
def test_onnx_runtime_gives_nearly_the_same_probabilities(
    exported: Path, served: StudentClassifier, backend: Any
) -> None:
    """The same head over the vectors of another runtime."""
    theirs = StudentClassifier.load(exported, backend).adapt(LABELLED).probabilities(TEXTS)
    atol = 1e-4 if backend == "onnx" else 0.3
    torch.testing.assert_close(theirs, served.adapt(LABELLED).probabilities(TEXTS), atol=atol, rtol=0)


def test_threads_adapt_and_classify_at_once(served: StudentClassifier) -> None:
    """One thread's inner loop must not move the weights that another reads."""
    other = [(text, {"lamps": "chairs", "chairs": "lamps"}[label]) for text, label in LABELLED]
    tasks = (LABELLED, [*LABELLED, ("black fjord bath towel", "towels")], other)
    wanted = [served.adapt(labelled).probabilities(TEXTS) for labelled in tasks]
    wrong: list[int] = []

    def work(number: int) -> None:
        for _ in range(10):
            if not torch.equal(served.adapt(tasks[number]).probabilities(TEXTS), wanted[number]):
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in (0, 1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_mistakes_in_serving_are_named(served: StudentClassifier) -> None:
    """Each of these would otherwise give labels, or an error from deep inside."""
    for labelled, message in (
        ([], "no labelled texts"),
        ({}, "no labelled texts"),
        (LABELLED[:2], "every labelled text has the label 'lamps'"),
        ({"lamps": "red lamp", "chairs": ["chair"]}, "give a list of texts"),
        ({"lamps": ["red lamp"], "chairs": []}, "'chairs' has no texts"),
        ([*LABELLED, ("red acme kitchen lamp ", "chairs")], "is labelled 'lamps' and 'chairs'"),
        ([*LABELLED, (" ", "chairs")], "the text at position 3 is ' ', which is blank"),
        ([*LABELLED, ("a chair", " ")], "the label at position 3 is ' ', which is blank"),
        ([*LABELLED, ("a chair", 7)], "the label at position 3 is 7, which is not a text; give its name, such as '7'"),
        ([*LABELLED, (None, "chairs")], "the text at position 3 is None, which is not a text"),
        (["red lamp", "chair"], "position 0 is 'red lamp'; give a pair"),
        ([*LABELLED, ("a", "b", "c")], "position 3 is .*; give a pair"),
    ):
        with pytest.raises(InputError, match=message):
            served.adapt(labelled)  # type: ignore[arg-type]
    classifier = served.adapt(LABELLED)
    for texts, message in (
        ("red lamp", r"pass \['red lamp'\]"),
        (["red lamp", " "], "position 1 is ' ', which is blank"),
        ([None], "position 0 is None, which is not a text"),
    ):
        with pytest.raises(InputError, match=message):
            classifier.predict(texts)  # type: ignore[arg-type]


def manifest(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    """A change of the manifest."""

    def apply(folder: Path) -> None:
        content = json.loads((folder / "manifest.json").read_text())
        change(content)
        (folder / "manifest.json").write_text(json.dumps(content))

    return apply


def head(name: str, to: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Path], None]:
    """A change of one tensor of the head, as a stranger would make it."""

    def apply(folder: Path) -> None:
        tensors = load_file(folder / "head.safetensors")
        tensors[name] = to(tensors.get(name, torch.ones(1))).contiguous()
        save_file(tensors, folder / "head.safetensors")
        digest = sha256(folder / "head.safetensors")
        manifest(lambda content: content["files"].update({"head.safetensors": digest}))(folder)

    return apply


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (manifest(lambda m: m.update(task="ranking")), "task is 'ranking', that of the study file 'classification'"),
        (manifest(lambda m: m.pop("task")), r"not a manifest \(task"),
        (manifest(lambda m: m["spec"].update(task="juggling")), r"spec: .*takes 'ranking' or 'classification'"),
        (manifest(lambda m: m["spec"].update(task=["ranking"])), r"spec: .*takes 'ranking' or 'classification'"),
        (manifest(lambda m: m["spec"]["protocol"].update(ways=1)), r"spec: .*ways"),
        (manifest(lambda m: m["learner"].update(inner_steps=10**6)), r"learner: .*inner_steps"),
        (manifest(lambda m: m["learner"].update(temperature=0)), r"learner: .*temperature"),
        (manifest(lambda m: m["learner"].update(train_candidates=5)), r"learner: .*train_candidates"),
        (manifest(lambda m: m["learner"].update(inner_lr=1e300)), "adapting its head diverged"),
        (head("log_scale", lambda scale: scale + 1e30), "adapting its head diverged"),
        (head("log_scale", lambda scale: scale * torch.nan), "log_scale holds values that are not finite"),
        (head("project.weight", lambda weight: weight[:, :3]), r"project.weight is F32 of 32 × 3"),
        (head("class_vectors", lambda weight: weight), r"holds an unknown 'class_vectors'"),
    ],
    ids=range(13),
)
def test_what_no_classifier_has_is_refused(foreign: Path, damage: Callable[[Path], None], said: str) -> None:
    """An export may come from anyone: it serves, or says in one line why not."""
    damage(foreign)
    with pytest.raises(InputError, match=said) as refused:
        StudentClassifier.load(foreign).adapt(LABELLED).predict(TEXTS)
    assert len(str(refused.value)) < 1000


def test_a_regression_without_a_solution_is_refused(problem: Problem) -> None:
    """A stranger's penalty may be zero, and then texts with one vector leave nothing to solve."""
    own = untrained(problem, values("ridge"))
    with torch.no_grad():
        own.head.ridge_penalty.fill_(-1e30)
    with pytest.raises(InputError, match="adapting its head diverged"):
        TextClassifier(lambda texts, _: torch.ones(len(texts), 32), own.learner, dict(LABELLED))


def test_an_export_of_another_task_says_what_opens_it(exported: Path) -> None:
    """Read as a recommender its head has weights of other names, which tells nobody anything."""
    message = (
        f"{re.escape(str(exported))} holds a student of classification, not of ranking; open it with .*hpo classify"
    )
    with pytest.raises(InputError, match=message):
        StudentRecommender.load(exported)
