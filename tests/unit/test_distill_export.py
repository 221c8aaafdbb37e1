"""An export is whole, opens everywhere, gives the student's own vectors, and refuses to be tampered with."""

import copy
import doctest
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import distill.export as exporting
import distill.inference as inference
from distill.export import export
from distill.hyperparameters import StudentHyperparameters
from distill.inference import StudentRecommender, as_student, load_export
from distill.manifest import ORIGIN
from distill.objective import Distillation, Student, Teacher, evaluate, load_student
from storage.errors import InputError, ScenetuneError
from studies.catalogue import TERMS
from studies.device import full_precision
from studies.encoder import tokenize
from studies.hyperparameters import Hyperparameters
from studies.objective import Problem, prepare
from tests.synthetic import planted_dataset, tiny_encoder, tiny_spec

METRICS = {
    "k": 5,
    "shots": 3,
    "scenes": 3,
    "systems": {
        "student": {"recall": {"mean": 0.5, "low": 0.4, "high": 0.6}, "ndcg": {"mean": 0.4}, "hit_rate": {"mean": 0.7}}
    },
    "retention": {"baseline": "support popularity", "recall": 0.97, "lift": None},
}


@pytest.fixture(scope="module")
def problem(tmp_path_factory: pytest.TempPathFactory) -> Problem:
    folder = tmp_path_factory.mktemp("study")
    spec = tiny_spec(tiny_encoder(folder / "bert"))
    return prepare(spec, folder / "cache", data=planted_dataset())


def distilled(problem: Problem, folder: Path, values: Hyperparameters) -> Student:
    """A student after a few steps, so that no two parts of it are equal by accident."""
    distillation = Distillation(problem, [Teacher(0, 0.5, problem.learner(values))])
    distillation.run_trial(StudentHyperparameters(temperature=3), folder, lambda *_: None)
    return load_student(problem, folder)


@pytest.fixture(scope="module")
def student(problem: Problem, tmp_path_factory: pytest.TempPathFactory) -> Student:
    values = Hyperparameters(learner="fomaml", inner_lr=0.05, inner_steps=2)
    return distilled(problem, tmp_path_factory.mktemp("trial") / "t", values)


def origin(problem: Problem) -> dict[str, Any]:
    return {
        "study": "tiny",
        "spec": problem.spec.model_dump(mode="json"),
        "data_fingerprint": problem.data.fingerprint,
        "encoder": {"name": "a tiny BERT", "sha256": problem.encoder.identity},
        "metrics": METRICS,
    }


@pytest.fixture(scope="module")
def exported(problem: Problem, student: Student, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exports") / "student"
    return export(student, problem.encoder.tokenizer, problem.lexicon, folder, origin(problem))


def vectors(problem: Problem, student: Student, count: int) -> torch.Tensor:
    with full_precision(), torch.no_grad():
        return student.tower(torch.arange(count)).cpu()


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_transformers_opens_the_export(problem: Problem, student: Student, exported: Path) -> None:
    """Token types that DistilBERT does not take, or another cut, show only outside our own code."""
    from transformers import AutoModel, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(exported), AutoModel.from_pretrained(exported)
    assert type(model).__name__ == "DistilBertModel"
    assert model.dtype == torch.float32
    inputs = tokenizer(list(problem.data.texts[:20]), padding=True, truncation=True, return_tensors="pt")
    assert set(inputs) == {"input_ids", "attention_mask"}
    with torch.no_grad():
        hidden, mask = model(**inputs).last_hidden_state, inputs["attention_mask"][..., None]
    pooled = torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1)
    torch.testing.assert_close(pooled, vectors(problem, student, 20), atol=1e-5, rtol=0)
    long = tokenizer("red " * 400, truncation=True)["input_ids"]
    assert len(long) == problem.spec.teacher.max_tokens


def test_sentence_transformers_opens_the_export(problem: Problem, student: Student, exported: Path) -> None:
    """Without its pooling file the same weights silently pool by CLS."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(exported), device="cpu")
    assert model.max_seq_length == problem.spec.teacher.max_tokens
    theirs = torch.from_numpy(model.encode(list(problem.data.texts[:20])))
    cosine = (theirs * vectors(problem, student, 20)).sum(1)
    assert float(cosine.min()) >= 0.9999


def test_the_manifest_says_what_it_is(problem: Problem, student: Student, exported: Path) -> None:
    """An export whose origin is lost cannot be trusted or made again."""
    manifest = json.loads((exported / "manifest.json").read_text())
    assert {name: manifest[name] for name in ORIGIN} == origin(problem)
    assert manifest["learner"] == student.learner.hyperparameters.to_dict()
    assert manifest["learner"]["inner_steps"] == 2
    assert manifest["distillation"]["temperature"] == 3
    assert manifest["parameters"]["encoder"] == sum(p.numel() for p in student.tower.parameters())
    assert set(manifest["files"]) == set(contents(exported)) - {"manifest.json"}
    assert manifest["bytes"] == sum(len(data) for name, data in contents(exported).items() if name != "manifest.json")
    assert set(manifest["versions"]) == {"scenetune", "torch", "transformers"}


def test_nothing_of_the_machine_is_exported(exported: Path, problem: Problem) -> None:
    """Tokenizers like to remember the folder that they were loaded from; there is no pickle and no code."""
    for name, data in contents(exported).items():
        assert problem.spec.teacher.encoder.encode() not in data or name == "manifest.json"
        assert Path(name).suffix in {".json", ".safetensors", ".md", ".txt"}


def test_the_card_tells_figures_and_intervals(exported: Path) -> None:
    """A model card without an interval sells noise."""
    card = (exported / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: sentence-transformers\n")
    assert "| student | 0.500 | 0.400 – 0.600 | 0.400 | 0.700 |" in card
    assert "keeps 97.0% of the best teacher's recall." in card


def test_the_export_scores_what_the_student_scored(problem: Problem, student: Student, exported: Path) -> None:
    """`hpo evaluate` on the folder must repeat the manifest's figures."""
    opened = load_export(exported)
    tokens = tokenize(opened.tokenizer, problem.data.texts, opened.max_tokens)
    again = evaluate(as_student(opened, tokens), problem, problem.validation)
    assert again == evaluate(student, problem, problem.validation)


@pytest.mark.parametrize("name", ["model.safetensors", "head.safetensors", "1_Pooling/config.json"])
@pytest.mark.parametrize("damage", ["altered", "missing"])
def test_a_damaged_export_is_refused(exported: Path, tmp_path: Path, name: str, damage: str) -> None:
    """Half a download must not serve recommendations."""
    copied = shutil.copytree(exported, tmp_path / "copy")
    if damage == "missing":
        (copied / name).unlink()
    else:
        data = bytearray((copied / name).read_bytes())
        data[-1] ^= 1
        (copied / name).write_bytes(data)
    with pytest.raises(InputError, match=name):
        StudentRecommender.load(copied)


def test_an_export_of_another_format_or_none_is_refused(exported: Path, tmp_path: Path) -> None:
    """Guessing at an unknown format gives wrong numbers instead of an error."""
    copied = shutil.copytree(exported, tmp_path / "copy")
    manifest = json.loads((copied / "manifest.json").read_text())
    (copied / "manifest.json").write_text(json.dumps(manifest | {"format": 99}))
    with pytest.raises(InputError, match="format 99"):
        load_export(copied)
    del manifest["files"]["model.safetensors"]
    (copied / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError, match=r"model\.safetensors"):
        load_export(copied)
    with pytest.raises(InputError, match="not an export"):
        load_export(tmp_path)


def test_an_existing_folder_is_refused_or_replaced(
    problem: Problem, student: Student, exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An export that is in service must not change under a reader, nor a home folder vanish."""
    monkeypatch.setattr(exporting, "_check_parity", lambda *_: None)  # slow, and shown elsewhere
    tokenizer, before = problem.encoder.tokenizer, contents(exported)
    with pytest.raises(InputError, match="exists already"):
        export(student, tokenizer, problem.lexicon, exported, origin(problem))
    assert contents(exported) == before
    copied = shutil.copytree(exported, exported.parent / "copy")
    export(student, tokenizer, problem.lexicon, copied, origin(problem) | {"study": "renamed"}, replace=True)
    assert load_export(copied).manifest["study"] == "renamed"
    precious = exported.parent / "precious"
    precious.mkdir()
    (precious / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match="not an export"):
        export(student, tokenizer, problem.lexicon, precious, origin(problem), replace=True)
    assert contents(precious) == {"thesis.txt": b"years of work"}


def test_failed_parity_leaves_nothing(
    problem: Problem, student: Student, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model that gives strangers other vectors must never be seen, not even as a draft."""
    write = exporting._write_encoder

    def wrong(student: Student, tokenizer: Any, draft: Path) -> None:
        other = copy.deepcopy(student.tower)
        with torch.no_grad():
            other.model.embeddings.word_embeddings.weight.mul_(1.1)
        write(exporting.Student(other, student.learner, student.max_tokens, student.hyperparameters), tokenizer, draft)

    monkeypatch.setattr(exporting, "_write_encoder", wrong)
    with pytest.raises(ScenetuneError, match="differs"):
        export(student, problem.encoder.tokenizer, problem.lexicon, tmp_path / "out", origin(problem))
    assert list(tmp_path.iterdir()) == []


def test_an_export_that_does_not_open_leaves_nothing(
    problem: Problem, student: Student, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fresh process's own error must reach the user."""
    monkeypatch.setattr(exporting, "_write_encoder", lambda *_: None)
    with pytest.raises(ScenetuneError, match="could not open"):
        export(student, problem.encoder.tokenizer, problem.lexicon, tmp_path / "out", origin(problem))
    assert list(tmp_path.iterdir()) == []


def test_a_manifest_without_its_origin_is_a_mistake(problem: Problem, student: Student, tmp_path: Path) -> None:
    """Found before anything is written."""
    with pytest.raises(ValueError, match="data_fingerprint"):
        export(student, problem.encoder.tokenizer, problem.lexicon, tmp_path / "out", {"study": "tiny"})
    assert list(tmp_path.iterdir()) == []


def test_the_documented_example_runs(exported: Path) -> None:
    """An example that does not run is worse than none."""
    finder = doctest.DocTestFinder()
    examples = [test for test in finder.find(inference, globs={**vars(inference), "folder": exported}) if test.examples]
    assert examples
    for test in examples:
        assert doctest.DocTestRunner().run(test).failed == 0


def test_parity_is_checked_without_a_network(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that needs a download opens here and fails at the user's."""
    seen: dict[str, Any] = {}

    def run(command: list[str], **options: Any) -> Any:
        seen.update(options)
        raise KeyboardInterrupt

    monkeypatch.setattr(exporting.subprocess, "run", run)
    with pytest.raises(KeyboardInterrupt):
        exporting._strangers_vectors(exported)
    assert seen["env"]["HF_HUB_OFFLINE"] == "1"


def in_words(problem: Problem, episode: Any, counts: torch.Tensor) -> list[str]:
    """A history as texts; order does not matter to counts."""
    items = episode.items.repeat_interleave(counts.long())
    return [problem.data.texts[item] for item in items.tolist()]


@pytest.mark.parametrize(
    "values",
    [
        Hyperparameters(learner="protonet"),
        Hyperparameters(learner="anil", inner_lr=0.05, inner_steps=2),
        Hyperparameters(learner="fomaml", inner_lr=0.05, inner_steps=2),
        Hyperparameters(learner="maml", inner_lr=0.05, inner_steps=2, head="scalars"),
        Hyperparameters(learner="metasgd", inner_lr=0.05, inner_steps=2, head="projection"),
    ],
    ids=lambda values: f"{values.learner}-{values.head}",
)
def test_serving_ranks_as_the_evaluation_does(
    problem: Problem, tmp_path: Path, values: Hyperparameters, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Serving reads histories after adapting, evaluation before: a head left unadapted would rank by other scores."""
    monkeypatch.setattr(exporting, "_check_parity", lambda *_: None)  # slow, and shown elsewhere
    student = distilled(problem, tmp_path / "t", values)
    served = StudentRecommender.load(
        export(student, problem.encoder.tokenizer, problem.lexicon, tmp_path / "out", origin(problem))
    )
    episode = problem.validation[0]
    with full_precision(), torch.no_grad():
        table = student.tower(episode.items)
    wanted = student.learner.adapt(episode, table).scores(episode.query_history).detach()
    candidates = [problem.data.texts[item] for item in episode.items[: episode.candidates].tolist()]
    support = [
        (in_words(problem, episode, counts), int(taken))
        for counts, taken in zip(episode.support_history, episode.support, strict=True)
    ]
    scene = served.adapt(candidates, support)
    ranking = scene.rank([in_words(problem, episode, counts) for counts in episode.query_history], k=100)
    assert ranking.items.shape == wanted.shape
    torch.testing.assert_close(ranking.scores, wanted.gather(1, ranking.items), atol=1e-4, rtol=1e-4)
    assert bool((ranking.scores.diff(dim=1) <= 0).all())


def test_mistakes_in_serving_are_named(exported: Path) -> None:
    """Each of these would otherwise give numbers, or an error from deep inside."""
    served = StudentRecommender.load(exported)
    taken = [(["red lamp"], 0)]
    for candidates, support, message in (
        ([], taken, "no candidates"),
        (["a", "a"], taken, "more than once"),
        (["a", "b"], [], "support is empty"),
        (["a", "b"], [([], 2)], "takes candidate 2"),
        (["a", "b"], [([], -1)], "takes candidate -1"),
        (["a", "b"], [("red lamp", 0)], "list of texts"),
    ):
        with pytest.raises(InputError, match=message):
            served.adapt(candidates, support)
    for products in ([1], [1, 0]):
        with pytest.raises(InputError, match="give one whole number of at least 1 for each"):
            served.adapt(["a", "b"], taken, products)
    scene = served.adapt(["a", "b"], taken)
    with pytest.raises(InputError, match="k = 0"):
        scene.rank([[]], k=0)
    assert scene.rank([[]], k=10).items.shape == (1, 2)
    assert scene.rank([], k=10).items.shape == (0, 2)


def test_a_text_of_many_products_ranks_higher_than_the_same_text_of_one(exported: Path) -> None:
    """The study's systems know how many products share a text: without it a student would rank by other scores."""
    served = StudentRecommender.load(exported)
    candidates, support = ["red lamp", "blue lamp", "green lamp"], [([], 0)]
    plain, one, many = (served.adapt(candidates, support, p).rank([[]]) for p in (None, [1, 1, 1], [1, 1, 40]))
    torch.testing.assert_close(plain.scores, one.scores)
    place = many.items[0].tolist().index(2)
    gate = float(served.learner.model.head.gates[7 + 1 + TERMS.index("products")])
    raised = many.scores[0, place] - plain.scores[0, plain.items[0].tolist().index(2)]
    assert gate > 0
    assert float(raised) > 0


def test_embedding_gives_unit_vectors_in_order(exported: Path) -> None:
    """Texts are encoded by length: the answer must come back in the order of the question."""
    served = StudentRecommender.load(exported)
    texts = ["red lamp", "a much longer text about a blue basket", "x"]
    together = served.embed(texts)
    torch.testing.assert_close(together.norm(dim=1), torch.ones(3))
    for row, text in enumerate(texts):
        torch.testing.assert_close(together[row], served.embed([text])[0], atol=1e-5, rtol=0)
    assert served.embed([]).shape == (0, 32)
