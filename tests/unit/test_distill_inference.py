"""Serving ranks as the evaluation does, on every backend, from catalogues that grow while they are read."""

import itertools
import json
import re
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch

import distill.export.writer as exporting
import distill.serving.backends as backends
import distill.serving.ranking.scene as scenes
from distill.export.tasks.explained_lists import explain
from distill.export.tasks.popularity import read_popularity
from distill.export.tasks.ranking import RankingExport, as_texts
from distill.inference import Popularity, Ranking, Scene, StudentRecommender, load_export
from distill.serving.ranking.nearest import best
from distill.student import Student
from hpo.serving.recommend import recommend
from storage.errors import InputError
from studies.config.hyperparameters import Hyperparameters
from studies.data.coding import build_dataset
from studies.data.dataset import keep_first_interactions
from studies.data.source import Tables
from studies.episodes.catalogue_terms import TERMS
from studies.episodes.episode import Episode
from studies.evaluation.metrics import top_k
from studies.model.device import full_precision
from studies.model.encoder import tokenize
from studies.model.pooling import pool
from studies.model.scene_encoding import FeatureWeights
from studies.training.prepare import prepare
from studies.training.problem import Problem
from tests.served import export_to, run_example, untrained
from tests.synthetic import planted_dataset, tiny_encoder, tiny_spec

FOMAML = Hyperparameters(learner="fomaml", inner_lr=0.05, inner_steps=2)


@pytest.fixture(scope="module")
def problem(tmp_path_factory: pytest.TempPathFactory) -> Problem:
    folder = tmp_path_factory.mktemp("study")
    spec = tiny_spec(tiny_encoder(folder / "bert"))
    return prepare(spec, folder / "cache", data=planted_dataset())


@pytest.fixture(scope="module", autouse=True)
def _unchecked() -> Iterator[None]:
    """Parity in a fresh process is slow, and shown elsewhere."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exporting, "_check_parity", lambda *_: None)
        yield


@pytest.fixture(scope="module")
def exported(problem: Problem, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Half as wide as its teacher, with both ONNX graphs."""
    student = untrained(problem, FOMAML, width=16)
    folder = tmp_path_factory.mktemp("exports") / "student"
    return export_to(problem, student, folder, formats=["hf", "onnx", "onnx-int8"])


@pytest.fixture(scope="module")
def served(exported: Path) -> StudentRecommender:
    return StudentRecommender.load(exported)


def in_words(problem: Problem, episode: Episode, counts: torch.Tensor) -> list[str]:
    """A history as texts; order does not matter to counts."""
    items = episode.items[episode.held].repeat_interleave(counts.long())
    return [problem.data.texts[item] for item in items.tolist()]


def asked(problem: Problem, episode: Episode) -> tuple[list[str], list[tuple[list[str], int]], list[list[str]]]:
    """An episode as a server meets it: candidates, support, and the queries' histories."""
    candidates = [problem.data.texts[item] for item in episode.items[: episode.candidates].tolist()]
    support = [
        (in_words(problem, episode, counts), int(taken))
        for counts, taken in zip(episode.support_history, episode.support, strict=True)
    ]
    return candidates, support, [in_words(problem, episode, counts) for counts in episode.query_history]


def check_reasons(scene: Scene, histories: list[list[str]], ranking: Ranking) -> None:
    """Every score is the sum of its terms, and every term that items brought is the sum of its parts."""
    seen = set()
    for history, items, scores in zip([*histories, []], ranking.items.tolist(), ranking.scores, strict=False):
        explained = scene.explain(history, items[:5])
        totals = torch.tensor([sum(reason.value for reason in reasons) for reasons in explained])
        torch.testing.assert_close(totals, scores[:5], atol=1e-5, rtol=1e-5)
        for reason in itertools.chain(*explained):
            assert not reason.items or sum(part for _, part in reason.items) == pytest.approx(reason.value, abs=1e-5)
            seen |= {(reason.name, text) for text, part in reason.items if abs(part) > 1e-6}
    assert {"history match", "support neighbours"} <= {name for name, _ in seen}
    assert {text for name, text in seen if name == "history match"} <= set(itertools.chain(*histories))


def check_explained(problem: Problem, folder: Path) -> None:
    """The stored lists are those of the first users with a history, and each score is the sum of its terms."""
    lists = explain(problem, folder).lists
    assert len({each.scene for each in lists}) == len(lists) == 3
    for found in lists:
        episodes = [each for each in problem.test if problem.scene_name(each) == found.scene]
        episode = next(each for each in episodes if each.query_history.any())
        query = int(episode.query_history.any(1).nonzero()[0])
        assert sorted(found.history) == sorted(in_words(problem, episode, episode.query_history[query]))
        taken = [problem.data.texts[item] for item in episode.items[: episode.candidates][episode.relevant[query]]]
        assert found.taken == len(taken)
        assert found.support == tuple(problem.data.texts[item] for item in episode.items[episode.support].tolist())
        assert [item.taken for item in found.items] == [item.text in taken for item in found.items]
        assert [item.score for item in found.items] == sorted((item.score for item in found.items), reverse=True)
        for item in found.items:
            assert sum(term.value for term in item.terms) == pytest.approx(item.score, abs=1e-5)


def test_a_few_lists_are_explained_by_what_brought_them(problem: Problem, exported: Path) -> None:
    """What the report says must be what is served: a term's texts, and the words that they share with the item."""
    check_explained(problem, exported)
    found = explain(problem, exported).lists[0]
    served = StudentRecommender.load(exported)
    candidates, support, _ = asked(problem, next(e for e in problem.test if problem.scene_name(e) == found.scene))
    scene = served.adapt(candidates, support)
    ranking = scene.rank([list(found.history)], k=5)
    assert [item.text for item in found.items] == [candidates[place] for place in ranking.items[0].tolist()]
    torch.testing.assert_close(torch.tensor([item.score for item in found.items]), ranking.scores[0])
    parts = {(term.name, part.text): part for term in found.items[0].terms for part in term.parts}
    assert {text for name, text in parts if name.startswith("support")} <= set(found.support)
    assert {text for name, text in parts if name.startswith("history")} <= set(found.history)
    for (name, text), part in parts.items():
        both = set(text.split()) & set(found.items[0].text.split())
        assert set(part.shared) == (both if name == "support words" else set()) or name == "support fields"
    assert any(part.shared for part in parts.values())


def test_the_documented_example_runs(exported: Path) -> None:
    """An example that does not run is worse than none."""
    run_example(StudentRecommender, exported)


@pytest.mark.parametrize(
    "values",
    [
        Hyperparameters(learner="protonet"),
        Hyperparameters(learner="anil", inner_lr=0.05, inner_steps=2),
        FOMAML,
        Hyperparameters(learner="maml", inner_lr=0.05, inner_steps=2, head="scalars"),
        Hyperparameters(learner="metasgd", inner_lr=0.05, inner_steps=2, head="projection"),
        Hyperparameters(learner="reptile", inner_lr=0.05, inner_steps=2, support_batch_size=2),
    ],
    ids=lambda values: f"{values.learner}-{values.head}",
)
def test_serving_ranks_as_the_evaluation_does(problem: Problem, tmp_path: Path, values: Hyperparameters) -> None:
    """Serving lists what histories hold apart and reads it after adapting: a slip there ranks by other scores."""
    student = untrained(problem, values)
    served = StudentRecommender.load(export_to(problem, student, tmp_path / "out"))
    episode = problem.validation[0]
    with full_precision(), torch.no_grad():
        table = student.tower(episode.items)
    wanted = student.learner.adapt(episode, table).scores(episode.query_history).detach()
    candidates, support, histories = asked(problem, episode)
    assert any(text in candidates for history in histories for text in history), "no candidate is listed twice"
    shop = served.catalogue(problem.data.texts)
    part = shop.adapt(support, candidates=candidates)
    for scene in (served.adapt(candidates, support), part, shop.adapt(support, episode.items[: len(candidates)])):
        ranking = scene.rank(histories, k=100)
        assert ranking.items.shape == wanted.shape
        torch.testing.assert_close(ranking.scores, wanted.gather(1, ranking.items), atol=1e-4, rtol=1e-4)
        assert bool((ranking.scores.diff(dim=1) <= 0).all())
        check_reasons(scene, histories, ranking)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Problem:
    """A study in which every item is a candidate everywhere: what is known elsewhere counts."""
    folder = tmp_path_factory.mktemp("shared")
    spec = tiny_spec(tiny_encoder(folder / "bert"), protocol={"candidates": "all", "history": 2})
    return prepare(spec, folder / "cache", data=planted_dataset())


def _vectors(student: Student, episode: Episode) -> torch.Tensor:
    with full_precision(), torch.no_grad():
        return student.tower(episode.items)


@pytest.mark.parametrize("name", ["protonet", "fomaml"])
def test_what_is_known_elsewhere_is_served_as_it_was_trained(shared: Problem, tmp_path: Path, name: str) -> None:
    """Histories reach further back than the student encodes; counts are fresh, or those of the export."""
    student = untrained(shared, FOMAML if name == "fomaml" else Hyperparameters(learner=name))
    folder, episode = tmp_path / "out", max(shared.validation, key=lambda each: int(each.query_past.sum()))
    served = StudentRecommender.load(export_to(shared, student, folder))
    request = as_texts(shared, episode)  # type: ignore[arg-type]
    assert max(len(history) for history in request["histories"]) > 2
    fresh = Popularity.of(request["candidates"], request["popularity"])
    scene = served.adapt(request["candidates"], request["support"], request["products"], fresh)
    ranking = scene.rank(request["histories"], k=len(request["candidates"]))
    wanted = RankingExport.of(shared).scores(student, episode, _vectors(student, episode))
    assert float(wanted.std()) > 0.1
    check_reasons(scene, request["histories"], ranking)
    check_explained(shared, folder)
    torch.testing.assert_close(ranking.scores, wanted.gather(1, ranking.items), atol=1e-4, rtol=1e-4)
    # The export's own counts are of all scenes and all days, as a shop that gives its log counts them.
    data = shared.data
    log = [(data.texts[item], float(time)) for item, time in zip(data.item, data.time, strict=True)]
    counted, brought = Popularity.count(log), read_popularity(folder)
    known = [*data.texts, "never sold"]
    assert counted.counts_of(known) == pytest.approx(brought.counts_of(known), rel=1e-6)
    assert counted.counts_of(known)[0].min() > 0
    assert not counted.counts_of(known)[-1].any()
    own, given = (
        served.adapt(request["candidates"], request["support"], request["products"], p) for p in (None, counted)
    )
    assert torch.equal(own.rank([[]]).items, given.rank([[]]).items)
    assert not torch.equal(own.rank([[]], 99).items, scene.rank([[]], 99).items)


@pytest.mark.parametrize("candidates", ["scene", "all"])
def test_what_a_user_took_is_not_on_the_list_where_the_study_excludes_it(tmp_path: Path, candidates: str) -> None:
    """All of a history counts, also what lies further back than the student encodes."""
    protocol = {"repeat": "exclude", "candidates": candidates, "history": 2}
    spec = tiny_spec(tiny_encoder(tmp_path / "bert"), protocol=protocol)
    problem = prepare(spec, tmp_path / "cache", data=keep_first_interactions(planted_dataset()))
    student, task = untrained(problem, Hyperparameters(learner="protonet")), RankingExport.of(problem)
    served = StudentRecommender.load(export_to(problem, student, tmp_path / "out"))
    episode = max(problem.validation, key=lambda each: int(each.excluded[:8].sum()))
    assert int(episode.excluded[:8].sum(1).max()) > (2 if candidates == "all" else 0)
    request = as_texts(problem, episode)  # type: ignore[arg-type]
    counts = request["popularity"]
    elsewhere = None if counts is None else Popularity.of(request["candidates"], counts)
    scene = served.adapt(request["candidates"], request["support"], request["products"], elsewhere)
    ranking = scene.rank(request["histories"], k=len(request["candidates"]))
    wanted = task.scores(student, episode, _vectors(student, episode))
    assert torch.equal(ranking.scores.isinf(), wanted.gather(1, ranking.items).isinf())
    for found in explain(problem, tmp_path / "out").lists:
        assert found.items
        assert not {item.text for item in found.items} & set(found.history)
    assert torch.equal(wanted.isinf(), episode.excluded[:8])
    assert bool(task.same(wanted, ranking.items[:, :10], exact=True).all())
    assert not bool(task.same(wanted, ranking.items.flip(1)[:, :10], exact=True).all())
    # From files, a list ends where only items that the user took are left.
    (tmp_path / "items.txt").write_text("\n".join(request["candidates"]))
    first = [json.dumps({"history": had, "item": request["candidates"][item]}) for had, item in request["support"]]
    (tmp_path / "first.jsonl").write_text("\n".join(first))
    users = [json.dumps({"user": row, "history": had}) for row, had in enumerate(request["histories"])]
    (tmp_path / "users.jsonl").write_text("\n".join(users))
    lists = recommend(
        tmp_path / "out", *(tmp_path / name for name in ("items.txt", "first.jsonl", "users.jsonl")), k=1000
    )
    for row, entry in enumerate(lists):
        assert set(entry.items) == set(request["candidates"]) - set(request["histories"][row])
        assert len(entry.items) == len(entry.scores)


def test_added_tokens_reach_the_served_student(tmp_path: Path) -> None:
    """A shop's own tokens were kept by the teacher and lost, with an error or without, on the way to the student."""
    from transformers import AutoTokenizer, BertModel

    folder = tiny_encoder(tmp_path / "bert")
    tokenizer, model = AutoTokenizer.from_pretrained(folder), BertModel.from_pretrained(folder)
    tokenizer.add_tokens(["corvo small", "zzz-9"])  # the first in texts of all scenes, the second in none
    with torch.random.fork_rng(devices=[]):
        model.resize_token_embeddings(len(tokenizer))
    for saved in (tokenizer, model):
        saved.save_pretrained(folder)
    problem = prepare(tiny_spec(folder), tmp_path / "cache", data=planted_dataset())
    student = untrained(problem, Hyperparameters(learner="protonet"), layers=4)
    served = StudentRecommender.load(export_to(problem, student, tmp_path / "out"))
    seen = [problem.data.texts[item] for item in problem.visible_items.tolist()]
    texts = [text for text in seen if "corvo small" in text][:3]
    assert texts
    texts += ["zzz-9 lamp", "blue zzz-9"]
    tokens = tokenize(problem.encoder.tokenizer, texts, 16)
    with full_precision(), torch.no_grad():
        ids, mask = tokens.padded(torch.arange(len(texts)), torch.device("cpu"))
        wanted = pool(problem.encoder.model(input_ids=ids, attention_mask=mask).last_hidden_state, mask)
    assert int(tokens.values.max()) == len(tokenizer) - 1
    torch.testing.assert_close(served.embed(texts), wanted, atol=1e-5, rtol=0)


@pytest.mark.parametrize("backend", ["onnx", "onnx-int8"])
def test_onnx_runtime_gives_the_same_vectors(
    problem: Problem, exported: Path, served: StudentRecommender, backend: Any
) -> None:
    """The graph pools and projects by itself: batches of several lengths must not show."""
    texts = [*problem.data.texts, "red " * 400]
    theirs = StudentRecommender.load(exported, backend).embed(texts)
    cosine = (theirs * served.embed(texts)).sum(1)
    assert float(cosine.min()) >= (0.9999 if backend == "onnx" else 0.9)


@pytest.mark.parametrize("precision", ["bf16", "fp16", "auto"])
def test_a_reduced_precision_keeps_the_vectors_directions(
    problem: Problem, exported: Path, served: StudentRecommender, precision: Any
) -> None:
    """Half the bits of a product must not reach pooling and head, which are fp32."""
    texts = problem.data.texts[:40]
    vectors = StudentRecommender.load(exported, precision=precision).embed(texts)
    assert vectors.dtype == torch.float32
    assert float((vectors * served.embed(texts)).sum(1).min()) >= 0.999


@pytest.mark.parametrize("backend", ["onnx", "onnx-int8"])
def test_a_texts_vector_does_not_depend_on_its_neighbours(problem: Problem, exported: Path, backend: Any) -> None:
    """With one scale for a whole batch, a catalogue ranks in one way, and one grown item by item in another."""
    texts = [*problem.data.texts[:60], "red " * 400, "x"]
    served = StudentRecommender.load(exported, backend)
    whole, grown = served.catalogue(texts), served.catalogue(texts[:1])
    for text in texts[1:]:
        grown.add([text])
    torch.testing.assert_close(grown._items.vectors, whole._items.vectors, atol=1e-5, rtol=0)
    support, histories = [([texts[50]], texts[3]), ([], texts[55])], [[text] for text in texts]
    lists = [catalogue.adapt(support).rank(histories).items for catalogue in (grown, whole)]
    assert torch.equal(*lists)


def test_texts_are_cut_as_in_the_study(problem: Problem, exported: Path) -> None:
    """Serving calls the tokenizer's inner one: a limit or a special token missed there gives other vectors."""
    opened = load_export(exported)
    texts = [*problem.data.texts, "", "red " * 400, "Crème brûlée"]
    wanted = tokenize(load_export(exported).tokenizer, texts, opened.max_tokens)
    found = backends.Embedder(opened, lambda ids, mask: ids).tokens(texts)
    assert torch.equal(found.values, wanted.values)
    assert torch.equal(found.offsets, wanted.offsets)


def test_what_a_backend_lacks_is_named(
    problem: Problem, exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each would otherwise end in an error of another library."""
    plain = export_to(problem, untrained(problem, FOMAML), tmp_path / "plain")
    with pytest.raises(InputError, match=r"no onnx/model\.onnx.*--format onnx"):
        StudentRecommender.load(plain, "onnx")
    for backend, precision, message in (
        ("tensorrt", "fp32", "backend = 'tensorrt'; accepted: torch, onnx, onnx-int8"),
        ("torch", "fp8", "precision = 'fp8'; accepted: fp32, bf16, fp16, auto"),
        ("onnx", "bf16", "precision 'bf16' is not for backend 'onnx'"),
    ):
        with pytest.raises(InputError, match=message):
            StudentRecommender.load(exported, backend, precision)  # type: ignore[arg-type]
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(InputError, match=r"scenetune\[export\]"):
        StudentRecommender.load(exported, "onnx")


def test_mistakes_in_serving_are_named(served: StudentRecommender) -> None:
    """Each of these would otherwise give numbers, or an error from deep inside."""
    taken = [(["red lamp"], 0)]
    for candidates, support, message in (
        ([], taken, "no candidates"),
        (["a", "a"], taken, "more than once"),
        (["a", " \t"], taken, "position 1"),
        (["a", "b"], [], "support is empty"),
        (["a", "b"], [([], 2)], "takes candidate 2"),
        (["a", "b"], [([], -1)], "takes candidate -1"),
        (["a", "b"], [([], "c")], "takes 'c'"),
        (["a", "b"], [("red lamp", 0)], "list of texts"),
        (["a", "b"], [([""], 0)], "history holds the text ''"),
        (["a", "b"], [([7], 0)], "history holds 7, which is not a text"),
        (["a", None], taken, "position 1 is None, which is not a text"),
    ):
        with pytest.raises(InputError, match=message):
            served.adapt(candidates, support)  # type: ignore[arg-type]
    for products in ([1], [1, 0]):
        with pytest.raises(InputError, match="give one whole number of at least 1 for each"):
            served.adapt(["a", "b"], taken, products)
    catalogue = served.catalogue(["a", "b"])
    for part, message in (
        ([], "no candidates"),
        (["c"], 'no "c"; the nearest it has is "'),
        ([2], "no item 2"),
        ([1, 1], "more than once"),
    ):
        with pytest.raises(InputError, match=message):
            catalogue.adapt(taken, part)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="position 0"):
        catalogue.add([""])
    scene = served.adapt(["a", "b"], taken)
    with pytest.raises(InputError, match="k = 0"):
        scene.rank([[]], k=0)
    assert scene.rank([[]], k=10).items.shape == (1, 2)
    assert scene.rank([], k=10).items.shape == (0, 2)


def test_a_text_of_many_products_ranks_higher_than_the_same_text_of_one(served: StudentRecommender) -> None:
    """The study's systems know how many products share a text: without it a student would rank by other scores."""
    candidates, support = ["red lamp", "blue lamp", "green lamp"], [([], 0)]
    plain, one, many = (served.adapt(candidates, support, p).rank([[]]) for p in (None, [1, 1, 1], [1, 1, 40]))
    torch.testing.assert_close(plain.scores, one.scores)
    place = many.items[0].tolist().index(2)
    weights = FeatureWeights(served.learner.model.head.feature_weights.detach())
    weight = float(weights.candidate[1 + TERMS.index("products")])
    raised = many.scores[0, place] - plain.scores[0, plain.items[0].tolist().index(2)]
    assert float(raised) * weight > 0


def test_embedding_gives_unit_vectors_in_order(served: StudentRecommender) -> None:
    """Texts are encoded by length: the answer must come back in the order of the question."""
    texts = ["red lamp", "a much longer text about a blue basket", "x"]
    seen: list[tuple[int, int]] = []
    together = served.embed(texts, lambda done, total: seen.append((done, total)))
    torch.testing.assert_close(together.norm(dim=1), torch.ones(3))
    for row, text in enumerate(texts):
        torch.testing.assert_close(together[row], served.embed([text])[0], atol=1e-5, rtol=0)
    assert served.embed([]).shape == (0, 32)
    assert seen[-1] == (3, 3)


def encoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The texts that are encoded from now on."""
    seen: list[str] = []
    whole = backends.Embedder.embed

    def embed(self: Any, texts: Any, progress: Any = None) -> torch.Tensor:
        seen.extend(texts)
        return whole(self, texts, progress)

    monkeypatch.setattr(backends.Embedder, "embed", embed)
    return seen


def test_texts_that_a_student_cannot_read_are_said_once(exported: Path, caplog: pytest.LogCaptureFixture) -> None:
    """All scores of such texts are equal: a server would rank by nothing and say nothing; nor may it fill its log."""
    student = StudentRecommender.load(exported)
    scene = student.adapt(["red lamp", "blue lamp"], [([], 0)])
    scene.rank([["green chair"]])
    assert caplog.messages == []
    catalogue = student.catalogue(["红色跑鞋", "蓝色跑鞋"])
    catalogue.adapt([(["黑色跑鞋"], 0)]).rank([["白色跑鞋"]])
    (said,) = caplog.messages
    assert re.search(r"loses most of 2 texts: 100% of their pieces are unknown; distil a student", said)


def test_texts_have_one_form_in_training_and_serving(served: StudentRecommender, tmp_path: Path) -> None:
    """Read with another form than it was trained on, an item would be cold, or two items."""
    spelled = [" 7", "Cafe\u0301", "ＴＶ\u3000５５", "tea\u00a0cup\n", "\uff76\uff9e"]
    plain = ["7", "Café", "TV 55", "tea cup", "ガ"]
    rows = {"product": list("abcde"), "scene": ["s"] * 5}
    log = pl.DataFrame({"user": ["u"] * 5, "product": list("abcde"), "time": range(5)})
    trained = build_dataset(Tables(log, pl.DataFrame({**rows, "text": spelled}), rows_read=5))
    catalogue = served.catalogue(spelled)
    assert sorted(catalogue.texts) == sorted(trained.texts) == sorted(plain)
    torch.testing.assert_close(served.embed(spelled), served.embed(plain))
    catalogue.add([f"{plain[0]}  "])
    assert len(catalogue) == 5
    one = catalogue.adapt([([spelled[1]], spelled[2])], candidates=spelled).rank([[spelled[3]]])
    other = catalogue.adapt([([plain[1]], plain[2])], candidates=plain).rank([[plain[3]]])
    assert torch.equal(one.scores, other.scores)
    with pytest.raises(InputError, match=r"hold '7' more than once \('7' and ' 7'\)"):
        served.catalogue(["7", " 7"])


def test_a_catalogue_encodes_each_text_once(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Encoding is nearly all of the cost: a text that is encoded again for every scene or history is paid for again."""
    seen = encoded(monkeypatch)
    catalogue = StudentRecommender.load(exported).catalogue(["red lamp", "blue lamp"])
    catalogue.add(["blue lamp", "green lamp"])
    assert catalogue.texts == ("red lamp", "blue lamp", "green lamp")
    scene = catalogue.adapt([(["blue lamp", "red chair"], "green lamp")])
    scene.rank([["red lamp"], ["red chair", "red chair"], ["red chair"]])
    assert seen == ["red lamp", "blue lamp", "green lamp", "red chair", "red chair"]


def test_a_grown_catalogue_adapts_as_one_made_whole(problem: Problem, served: StudentRecommender) -> None:
    """Words, fields and products of what is added later count as if they had been there."""
    texts, products = list(problem.data.texts[:60]), [1 + number % 7 for number in range(60)]
    support = [([texts[50]], texts[3]), ([], texts[55])]
    grown = served.catalogue(texts[:25], products[:25])
    before = grown.adapt(support[:1])
    grown.add(texts[20:], products[20:])
    assert len(before.candidates) == 25
    for part in (None, [*range(10, 58, 2), 3, 55]):
        one = grown.adapt(support, part).rank([[texts[1]]], k=60)
        whole = served.catalogue(texts, products).adapt(support, part).rank([[texts[1]]], k=60)
        torch.testing.assert_close(one.scores, whole.scores, atol=1e-4, rtol=1e-4)
        assert torch.equal(one.items, whole.items)


@pytest.mark.parametrize("backend", ["torch", "onnx"])
def test_threads_share_a_student_while_items_are_added(problem: Problem, exported: Path, backend: Any) -> None:
    """A learner swaps weights in its head while it adapts; a reader between two states would see half a catalogue."""
    served = StudentRecommender.load(exported, backend)
    texts = list(problem.data.texts[:120])
    catalogue = served.catalogue(texts[:40])
    supports = [[([texts[41 + n], "a word never met"], n), ([], 2 * n)] for n in range(8)]
    part, history = list(range(30)), [[texts[70], texts[5]]]
    alone = [catalogue.adapt(support, part).rank(history, k=30) for support in supports]
    failures: list[BaseException] = []

    def read(number: int) -> None:
        try:
            for _ in range(6):
                scene = catalogue.adapt(supports[number], part)
                torch.testing.assert_close(scene.rank(history, k=30).scores, alone[number].scores, atol=1e-4, rtol=1e-4)
                everything = catalogue.adapt(supports[number])
                assert len(everything.candidates) in range(40, 121, 10)
                assert everything.rank(history, k=200).items.shape == (1, len(everything.candidates))
        except BaseException as error:
            failures.append(error)

    def grow() -> None:
        for first in range(40, 120, 10):
            catalogue.add(texts[first : first + 10])

    threads = [threading.Thread(target=read, args=(number,)) for number in range(len(supports))]
    threads += [threading.Thread(target=grow), threading.Thread(target=grow)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert catalogue.texts[:40] == tuple(texts[:40])
    assert sorted(catalogue.texts) == sorted(texts)


def test_many_users_are_ranked_part_by_part(
    problem: Problem, served: StudentRecommender, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch of any size must fit into memory, and a seam must not show."""
    candidates, support, histories = asked(problem, problem.validation[0])
    scene = served.adapt(candidates, support)
    together = scene.rank(histories, k=4)
    monkeypatch.setattr(scenes, "_MAX_ELEMENTS", 1)
    one_by_one = scene.rank(histories, k=4)
    assert torch.equal(one_by_one.items, together.items)
    torch.testing.assert_close(one_by_one.scores, together.scores)


def test_equal_scores_keep_the_candidates_order() -> None:
    """Sorting only the highest scores must give the list that sorting all would give."""
    scores = torch.randint(0, 5, (6, 40), generator=torch.Generator().manual_seed(1)).float()
    for k in (1, 7, 39, 40, 50):
        assert torch.equal(best(scores, k), top_k(scores, k))


def test_no_kernel_is_made_for_all_pairs_of_a_catalogue(served: StudentRecommender) -> None:
    """A hundred thousand items have ten thousand million pairs."""
    words = [f"{a} {b} {c}" for a in "abcdefghij" for b in "klmnopqrst" for c in "uvwxyz"]
    catalogue = served.catalogue(words)
    scene = catalogue.adapt([([words[1], "red chair"], 0)])
    encoding = scene._adapted.encoding
    # What the support's users had is read while adapting; of the rest, one row for each interaction is kept.
    assert encoding.history_match.shape == (0, len(words))
    assert encoding.support_kernels.shape == (4, 1, len(words))


def test_the_manifest_decides_whether_products_count(problem: Problem, exported: Path) -> None:
    """A student of a study that hides them has never seen the term: any number there would be noise."""
    opened = load_export(exported)
    said = opened.manifest.spec
    without = opened.manifest.model_copy(update={"spec": said | {"protocol": said["protocol"] | {"products": False}}})
    blind, support = StudentRecommender(replace(opened, manifest=without)), [([], 0)]
    one, many = (blind.adapt(["red lamp", "blue lamp"], support, p).rank([[]]) for p in ([1, 1], [1, 40]))
    torch.testing.assert_close(one.scores, many.scores)
