"""The uses of an exported student: docs/uses.md as its reader runs it, and what each must give, on every backend."""

import contextlib
import io
import json
import re
import shlex
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from torch.nn.functional import normalize

import distill.export.writer as exporting
import distill.serving.ranking.nearest as nearest
from distill.inference import Catalogue, NearItem, StudentRecommender
from distill.serving.backends import Backend
from storage.errors import InputError
from studies.config.hyperparameters import Hyperparameters
from studies.training.prepare import prepare
from tests.mini import call, shell
from tests.served import export_to, untrained
from tests.synthetic import planted_dataset, tiny_encoder, tiny_spec

PAGE = (Path(__file__).parents[2] / "docs" / "uses.md").read_text(encoding="utf-8")
FILE = re.compile(r"`([\w.]+)` [^`\n]*:\n\n```\w+\n(.*?)^```$", re.MULTILINE | re.DOTALL)
BLOCK = re.compile(r"^```(python|sh)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
TEXTS = ["red acme lamp", "blue bolt lamp", "green acme chair", "red corvo chair", "black delta towel"]
SUPPORT = [(["red acme towel"], 2), ([], 0)]


@pytest.fixture(scope="session")
def exports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A student whose learner moves all of its head, with both ONNX graphs, and one that moves nothing."""
    folder = tmp_path_factory.mktemp("uses")
    problem = prepare(tiny_spec(tiny_encoder(folder / "bert")), folder / "cache", data=planted_dataset())
    moving = untrained(problem, Hyperparameters(learner="fomaml", inner_lr=0.05, inner_steps=2), width=16)
    fixed = untrained(problem, Hyperparameters(learner="protonet", head="scalars"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exporting, "_check_parity", lambda *_: None)  # slow, and shown elsewhere
        return {
            "moving": export_to(problem, moving, folder / "moving", formats=["hf", "onnx", "onnx-int8"]),
            "fixed": export_to(problem, fixed, folder / "fixed"),
        }


@pytest.fixture(scope="session", params=get_args(Backend))
def served(request: pytest.FixtureRequest, exports: dict[str, Path]) -> StudentRecommender:
    return StudentRecommender.load(exports["moving"], request.param)


@pytest.fixture
def reader(exports: dict[str, Path], tmp_path: Path) -> Path:
    """The folder of the page's reader: its files, and exports under the names that it uses."""
    (tmp_path / "exports").mkdir()
    for name in ("shop", "coupons"):
        (tmp_path / "exports" / name).symlink_to(exports["moving"])
    for name, content in FILE.findall(PAGE):
        (tmp_path / name).write_text(content)
    return tmp_path


def counted(student: StudentRecommender, texts: list[str]) -> tuple[Catalogue, list[list[str]]]:
    """A catalogue, and the texts of each call that embeds."""
    calls: list[list[str]] = []

    def embed(texts: Any, progress: Any) -> torch.Tensor:
        calls.append(list(texts))
        return student.embed(texts, progress)

    return Catalogue(student._parts._replace(embed=embed), texts), calls


def by_hand(texts: list[str], vectors: torch.Tensor, wanted: torch.Tensor, k: int, own: int = -1) -> list[NearItem]:
    cosines = [float(torch.dot(vector, wanted)) for vector in vectors]
    order = sorted((place for place in range(len(texts)) if place != own), key=lambda place: -cosines[place])
    return [NearItem(texts[place], pytest.approx(cosines[place], abs=1e-5)) for place in order[:k]]


def test_the_page_runs_as_it_stands(reader: Path) -> None:
    """An example that fails is the first thing that a user of the export tries."""
    known: dict[str, Any] = {}
    kinds = []
    for kind, body in BLOCK.findall(PAGE):
        kinds.append(kind)
        if kind == "python":
            with contextlib.chdir(reader), contextlib.redirect_stdout(io.StringIO()):
                exec(compile(body, "uses.md", "exec"), known)
            continue
        for line in body.splitlines():
            done = call(*shlex.split(line)[1:], cwd=reader) if line.startswith("hpo ") else shell(line, reader)
            assert done.returncode == 0, f"{line}\n{done.stderr}"
    assert kinds.count("python") == 1 + kinds.count("sh")
    # A user without a history has a list, but no profile; a new item is ranked.
    assert len(known["lists"][1]) == 3
    assert known["unknown"].nearest == []
    assert set(known["unknown"].vector) == {0.0}
    assert "pea drink, 1 l" in {known["catalogue"].texts[item] for item in known["with_new"].items[0].tolist()}
    assert "pea drink, 1 l" not in known["scene"].candidates
    assert set(known["personal"]) == {near.item for near in known["found"]} & set(known["scene"].candidates)


def test_similar_items_are_the_nearest_others_and_embed_nothing(served: StudentRecommender) -> None:
    """An item that is its own neighbour fills the first place of every list; each text is embedded once, ever."""
    catalogue, calls = counted(served, TEXTS)
    vectors = served.embed(TEXTS)
    found = catalogue.similar([TEXTS[3], f" {TEXTS[0]} ", TEXTS[3]], k=3)
    assert found == [by_hand(TEXTS, vectors, vectors[own], 3, own) for own in (3, 0, 3)]
    assert catalogue.similar([3], k=99) == [by_hand(TEXTS, vectors, vectors[3], 4, 3)]
    assert catalogue.similar([]) == []
    assert served.catalogue(["red lamp"]).similar(["red lamp"]) == [[]]
    catalogue.add(["red acme chair"])
    assert "red acme chair" in [near.item for near in catalogue.similar(TEXTS[3:4], k=5)[0]]
    assert calls == [TEXTS, ["red acme chair"]]


def test_a_search_embeds_its_queries_at_once_and_finds_the_nearest(
    served: StudentRecommender, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A loop of encodings would take ten times as long; what the catalogue holds needs none."""
    catalogue, calls = counted(served, TEXTS)
    queries = ["lamp", "bolt towel", TEXTS[1], "lamp "]
    found = catalogue.find(queries, k=2)
    assert calls[1:] == [["lamp", "bolt towel"]]
    vectors, wanted = served.embed(TEXTS), served.embed(queries)
    assert found == [by_hand(TEXTS, vectors, each, 2) for each in wanted]
    assert found[2][0] == NearItem(TEXTS[1], pytest.approx(1, abs=1e-5))
    assert found[0] == found[3]
    monkeypatch.setattr(nearest, "_MAX_ELEMENTS", 1)
    assert [[near.item for near in row] for row in catalogue.find(queries, k=2)] == [
        [near.item for near in row] for row in found
    ]


def test_a_scene_compares_items_by_what_adapting_moved(exports: dict[str, Path]) -> None:
    """Under a learner that moves the head a scene has neighbours of its own; under others there is nothing to add."""
    moving, fixed = (StudentRecommender.load(exports[name]).catalogue(TEXTS) for name in ("moving", "fixed"))
    scene = moving.adapt(SUPPORT)
    assert scene.moves_vectors
    vectors = normalize(moving._items.vectors @ scene._adapted.head["project.weight"].T, dim=1).detach()
    assert scene.similar([1, TEXTS[4]], k=4) == [by_hand(TEXTS, vectors, vectors[own], 4, own) for own in (1, 4)]
    before = moving._items.directions
    assert not torch.allclose(before, vectors, atol=1e-4)
    part = fixed.adapt([([], TEXTS[2])], candidates=TEXTS[2:])
    assert not part.moves_vectors
    wanted = [near for near in fixed.similar([2], k=4)[0] if near.item in TEXTS[2:]]
    assert part.similar([TEXTS[2]], k=4) == [[NearItem(item, pytest.approx(s, abs=1e-6)) for item, s in wanted]]
    with pytest.raises(InputError, match='the scene has no "red acme lamp"; the nearest it has is'):
        part.similar(TEXTS[:1])


def test_a_profile_is_the_direction_in_which_the_history_moves_scores(served: StudentRecommender) -> None:
    """Averaged or weighed otherwise, a profile would be of a user whom the recommender never sees."""
    catalogue, calls = counted(served, TEXTS)
    longest = served.longest_history
    history = ["a towel", *[TEXTS[0]] * 2, *TEXTS[1:4]]
    users = [history, [], [*["forgotten"] * 3, *TEXTS[:1] * longest], history]
    profiles = catalogue.profiles(users, k=5)
    assert calls[1:] == [["a towel"]]
    head = served.learner.model.head
    for user, profile in zip(users, profiles, strict=True):
        if not user:
            assert (set(profile.vector), profile.nearest) == ({0.0}, [])
            continue
        items = head.directions(served.embed(user[-longest:]))
        wanted = normalize(head.user(items).mean(0), dim=0).detach()
        torch.testing.assert_close(torch.tensor(profile.vector), wanted, atol=1e-5, rtol=1e-5)
        directions = head.directions(served.embed(TEXTS)).detach()
        assert profile.nearest == by_hand(TEXTS, directions, wanted, 5)
    # The score's own term of the history orders the candidates in the same way.
    scene = catalogue.adapt(SUPPORT)
    own = scene.profiles([history], k=5)[0].nearest
    terms = {TEXTS[place]: scene.explain(history, [place])[0] for place in range(5)}
    affinity = {text: next(r.value for r in rows if r.name == "history affinity") for text, rows in terms.items()}
    sign = float(scene._adapted.feature_weights[0].sign())
    assert [near.item for near in own] == sorted(TEXTS, key=lambda text: -sign * affinity[text])


def test_a_head_whose_matrices_were_not_trained_profiles_by_the_mean_of_items(exports: dict[str, Path]) -> None:
    """Through a matrix of random numbers the nearest items would be random ones."""
    student = StudentRecommender.load(exports["fixed"])
    (profile,) = student.catalogue(TEXTS).profiles([TEXTS[1:2]], k=1)
    assert profile.nearest == [NearItem(TEXTS[1], pytest.approx(1, abs=1e-5))]


def test_answers_stay_the_same_while_items_are_added(exports: dict[str, Path]) -> None:
    """A server asks from many threads; a position of the catalogue before with a vector of that after is garbage."""
    student = StudentRecommender.load(exports["moving"])
    catalogue = student.catalogue(TEXTS)
    added = [f"{text} {number}" for number in range(12) for text in TEXTS]

    def ask(_: int) -> tuple[NearItem, NearItem]:
        return catalogue.similar([TEXTS[0]], k=1)[0][0], catalogue.find([TEXTS[1]], k=1)[0][0]

    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(ask, number) for number in range(40)]
        for start in range(0, len(added), 5):
            catalogue.add(added[start : start + 5])
        rows = [future.result() for future in asked]
    vectors = student.embed([*TEXTS, *added])
    cosine = dict(zip([*TEXTS, *added], (vectors @ vectors[0]).tolist(), strict=True))
    for similar, found in rows:
        assert similar.similarity == pytest.approx(cosine[similar.item], abs=1e-5)
        assert found == NearItem(TEXTS[1], pytest.approx(1, abs=1e-5))


@pytest.mark.parametrize(
    ("method", "given", "k", "message"),
    [
        ("similar", ["red acme lamb"], 3, 'has no "red acme lamb"; the nearest it has is "'),
        ("similar", [" "], 3, "which is blank"),
        ("similar", [5], 3, "of 5 items has no item 5; positions count from 0"),
        ("similar", "red acme lamp", 3, "items are a list, got the text"),
        ("similar", [0], 0, "k = 0: a list has at least 1 item"),
        ("find", ["lamp", " "], 3, "query at position 1 is ' ', which is blank"),
        ("find", [None], 3, "query at position 0 is None, which is not a text"),
        ("find", ["lamp " * 20_000], 3, "has 100,000 characters, a text has at most 65,536"),
        ("find", "lamp", 3, "queries are a list, got the text"),
        ("find", ["lamp"], -1, "k = -1"),
        ("profiles", ["lamp"], 3, "a history is a list of texts"),
        ("profiles", [[" "]], 3, "which is blank"),
        ("profiles", [["lamp"]], 0, "k = 0"),
    ],
)
def test_a_mistake_in_a_question_is_named(
    exports: dict[str, Path], method: str, given: Any, k: int, message: str
) -> None:
    """Each of these would otherwise be answered, or end in an error from deep inside."""
    catalogue = StudentRecommender.load(exports["fixed"]).catalogue(TEXTS)
    with pytest.raises(InputError, match=re.escape(message)):
        getattr(catalogue, method)(given, k)


def test_the_commands_print_tables_and_json(reader: Path, exports: dict[str, Path]) -> None:
    """A script reads one, a person the other; neither gets another's items."""
    given = ("--catalogue", "items.csv", "--k", "2")
    lines = [
        json.loads(line)
        for verb, *more in (
            ("similar", "oat drink, 1 l", *given),
            ("find", "oat milk", *given),
            ("profile", "--histories", "users.jsonl", *given),
        )
        for line in call(verb, "exports/shop", *more, "--json", cwd=reader).stdout.splitlines()
    ]
    assert [[*line][:-1] for line in lines] == [["item"], ["query"], ["user", "vector"], ["user", "vector"]]
    assert [len(line["nearest"]) for line in lines] == [2, 2, 2, 0]
    assert "oat drink, 1 l" not in [near["item"] for near in lines[0]["nearest"]]
    table = call("similar", "exports/shop", "--items", "items.csv", *given, cwd=reader).stdout.splitlines()
    assert table[0].split() == ["item", "rank", "nearest", "similarity"]
    assert len(table) == 1 + 2 * 5
    shown = call("profile", "exports/shop", "--histories", "users.jsonl", *given, cwd=reader).stdout
    assert "u18" in shown
    assert "no history" in shown
    same = call("similar", exports["fixed"], "oat drink, 1 l", "--support", "first.jsonl", *given, cwd=reader)
    assert "note: adapting moves no vectors of items in this student (protonet)" in same.stderr
    long = call("find", "exports/shop", "lamp " * 40, *given, cwd=reader)
    assert "note: 1 of 1 queries are longer than the 16 tokens" in long.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("similar", "oat drnk, 1 l"),
            'item 1 is "oat drnk, 1 l", which the catalogue lacks; the nearest it has is "oat',
        ),
        (
            ("similar", "--items", "coupons.txt"),
            'coupons.txt line 1 is "yoghurt, dairy, national", which the catalogue',
        ),
        (("similar",), "there are no items: write them behind the export"),
        (("find",), "there are no queries: write them behind the export"),
        (("find", "oat", " "), "query 2 is ' ', which is blank"),
        (("find", "oat", "--k", "0"), "--k"),
        (("profile", "--histories", "coupons.txt"), "coupons.txt line 1 is not JSON"),
    ],
)
def test_a_mistake_on_the_command_line_is_named(reader: Path, arguments: tuple[str, ...], message: str) -> None:
    """All is checked before the student is opened: a catalogue takes minutes to embed."""
    verb, *more = arguments
    done = call(verb, "no-export", *more, "--catalogue", "items.csv", cwd=reader)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stdout == ""
