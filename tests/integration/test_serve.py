"""`hpo serve`: what Python answers comes over HTTP, bad requests are answered, and the process starts and ends well."""

import itertools
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
from fastapi import FastAPI
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, Phase, given, settings

import distill.export.writer as exporting
import hpo.service.server as server
from distill.inference import StudentClassifier, StudentRecommender
from hpo.service.app import Opened, build
from hpo.service.limits import Limits
from hpo.serving.recommend import read_catalogue
from hpo.status.console import Console
from studies.config.hyperparameters import Hyperparameters
from studies.config.spec import parse_spec
from studies.training.prepare import prepare
from tests.forked import fork
from tests.labelled import planted_texts
from tests.labelled_study import tiny_labelled_spec
from tests.mini import call
from tests.running import wait_for
from tests.served import export_to, untrained
from tests.synthetic import planted_dataset, tiny_encoder, tiny_spec

TEXTS = ["red acme lamp", "blue bolt lamp", "green acme chair", "red corvo chair"]
SUPPORT = [{"history": ["a towel"], "item": TEXTS[2]}, {"item": TEXTS[0]}]
LABELLED = [
    {"text": "red acme kitchen lamp", "label": "lamps"},
    {"text": "blue bolt kitchen lamp", "label": "lamps"},
    {"text": "green acme attic chair", "label": "chairs"},
]
LIMITS = Limits(
    body=20_000, texts=50, characters=200, items=30, scenes=3, scene_items=20, values=1000, pairs=200, body_seconds=1
)
JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A recommender that takes gradient steps, a classifier, and one of known classes."""
    folder = tmp_path_factory.mktemp("studies")
    encoder, cache, labelled = tiny_encoder(folder / "bert"), folder / "cache", planted_texts(16, 12)
    known = {
        "name": "known",
        "task": "classification",
        "data": {"source": "completejourney"},
        "protocol": {"classes": "known", "train_episodes": 4},
        "teacher": {"encoder": str(encoder), "max_tokens": 16},
        "search": {"space": {"trainable_layers": 0}},
        "pruner": {"rungs": [2, 4]},
    }
    steps = {"learner": "fomaml", "inner_lr": 0.1, "inner_steps": 2}
    studies = {
        "recommender": (tiny_spec(encoder), planted_dataset(), steps),
        "classifier": (tiny_labelled_spec(encoder), labelled, {"learner": "protonet", "temperature": 0.1}),
        "known": (parse_spec(known), labelled, {"learner": "finetune", "temperature": 0.1}),
    }
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exporting, "_check_parity", lambda *_: None)  # slow, and shown elsewhere
        for name, (spec, data, values) in studies.items():
            problem = prepare(spec, cache, data=data)
            student = untrained(problem, Hyperparameters(**values), layers=1)
            found[name] = export_to(problem, student, folder / name)
    return found


@pytest.fixture(scope="module")
def items(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("files") / "items.txt"
    path.write_text("\n".join(TEXTS) + "\n")
    return path


def opened(folder: Path, items: Path | None = None, limits: Limits = LIMITS) -> Opened:
    listing = None if items is None else read_catalogue(items)
    return server.open_service(folder, "torch", limits, listing, None, Console())


@pytest.fixture
def shop(exports: dict[str, Path], items: Path) -> Iterator[TestClient]:
    """A recommender with a catalogue."""
    service = opened(exports["recommender"], items)
    with TestClient(build(service), "http://localhost") as client:
        yield client


def test_lists_are_those_of_python_and_say_why(shop: TestClient, exports: dict[str, Path]) -> None:
    """The service is the student, not another one; new items come in without retraining."""
    made = shop.put("/scenes/chairs", json={"support": SUPPORT})
    assert (made.status_code, made.json()) == (201, {"name": "chairs", "support": 2, "candidates": 4})
    histories = [[TEXTS[0], "an unknown lamp"], []]
    body = {"users": [{"user": "u1", "history": histories[0]}, {}], "k": 3, "explain": True}
    lists = shop.post("/scenes/chairs/rank", json=body).json()["lists"]
    student = StudentRecommender.load(exports["recommender"])
    scene = student.adapt(TEXTS, [(each.get("history", []), each["item"]) for each in SUPPORT])
    wanted = scene.rank(histories, 3)
    for entry, places, scores in zip(lists, wanted.items.tolist(), wanted.scores.tolist(), strict=True):
        assert entry["items"] == [TEXTS[place] for place in places]
        assert entry["scores"] == pytest.approx(scores, abs=1e-5)
        totals = [sum(term["value"] for term in terms) for terms in entry["reasons"]]
        assert totals == pytest.approx(scores, abs=1e-5)
    assert [entry["user"] for entry in lists] == ["u1", None]
    added = shop.post("/catalogue", json={"texts": ["a new lamp", TEXTS[0]], "products": [2, 1]})
    assert added.json() == {"added": 1, "items": 5}
    replaced = shop.put("/scenes/chairs", json={"support": SUPPORT, "candidates": ["a new lamp", *TEXTS[::2]]})
    assert (replaced.status_code, replaced.json()["candidates"]) == (200, 3)
    assert "a new lamp" in shop.post("/scenes/chairs/rank", json={"users": [{}]}).json()["lists"][0]["items"]
    own = {"support": [{"item": "x 1"}], "catalogue": {"texts": ["x 1", "x 2"]}}
    assert shop.put("/scenes/own", json=own).json()["candidates"] == 2
    (vector,) = shop.post("/embed", json={"texts": [TEXTS[0]]}).json()["vectors"]
    assert vector == pytest.approx(student.embed([TEXTS[0]])[0].tolist(), abs=1e-6)


def test_nearest_items_are_those_of_python(shop: TestClient, exports: dict[str, Path]) -> None:
    """Similar items, search and profiles, of the catalogue and of a scene."""
    shop.put("/scenes/chairs", json={"support": SUPPORT})
    catalogue = StudentRecommender.load(exports["recommender"]).catalogue(TEXTS)
    scene = catalogue.adapt([(each.get("history", []), each["item"]) for each in SUPPORT])
    history = ["a towel", TEXTS[1]]
    asked = [
        ("/similar", {"items": TEXTS[:2], "k": 2}, "item", catalogue.similar(TEXTS[:2], 2)),
        ("/similar", {"items": TEXTS[:1], "scene": "chairs"}, "item", scene.similar(TEXTS[:1])),
        ("/find", {"queries": ["a lamp"], "k": 9}, "query", catalogue.find(["a lamp"], 9)),
        ("/profile", {"users": [{"user": 7, "history": history}, {}]}, "user", catalogue.profiles([history, []])),
        ("/profile", {"users": [{"history": history}], "scene": "chairs"}, "user", scene.profiles([history])),
    ]
    for path, body, kind, wanted in asked:
        lists = shop.post(path, json=body).json()["lists"]
        assert [kind in entry for entry in lists] == [True] * len(wanted)
        for entry, each in zip(lists, wanted, strict=True):
            near = each.nearest if kind == "user" else each
            assert [found["item"] for found in entry["nearest"]] == [item.item for item in near]
            assert [found["similarity"] for found in entry["nearest"]] == pytest.approx([n.similarity for n in near])
            assert kind != "user" or entry["vector"] == pytest.approx(each.vector, abs=1e-6)


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "words"),
    [
        ("POST", "/scenes/chair/rank", {"users": [{}]}, 404, "there are chairs: adapt to it with PUT /scenes/chair"),
        ("DELETE", "/scenes/chair", None, 404, "there is no scene"),
        ("POST", "/scenes/chairs/classify", {"texts": ["a"]}, 404, "/scenes/{name}/rank"),
        ("GET", "/embed", None, 405, "Method Not Allowed"),
        ("PUT", "/scenes/x", {"support": []}, 422, "the support is empty"),
        ("PUT", "/scenes/-x", {"support": SUPPORT}, 422, "name: String should match pattern"),
        (
            "PUT",
            "/scenes/x",
            {"support": [{"item": "red acme lamb"}]},
            422,
            'no item "red acme lamb"; the nearest in the cat',
        ),
        (
            "PUT",
            "/scenes/x",
            {"support": SUPPORT, "candidates": ["red lamp"]},
            422,
            'catalogue has no item "red lamp"',
        ),
        ("PUT", "/scenes/x", {"support": SUPPORT, "candidates": TEXTS[:1]}, 422, "the scene has no item"),
        ("PUT", "/scenes/x", {"support": SUPPORT * 26}, 413, "78 texts; accepted are 50"),
        ("PUT", "/scenes/x", {"support": [SUPPORT[1]] * 50, "candidates": None}, 413, None),
        ("PUT", "/scenes/x", {"support": [{"item": "a", "histroy": []}]}, 422, "support.0.histroy: Extra inputs"),
        (
            "POST",
            "/scenes/chairs/rank",
            {"users": [{"user": 2**63}]},
            422,
            "users.0.user",
        ),
        ("POST", "/scenes/chairs/rank", {"users": []}, 422, "users: List should have at least 1 item"),
        ("POST", "/scenes/chairs/rank", {"users": [{}], "k": 0}, 422, "k: Input should be greater than or equal to 1"),
        ("POST", "/scenes/chairs/rank", {"users": [{}], "k": "3"}, 422, "k: Input should be a valid integer"),
        ("POST", "/scenes/chairs/rank", {"users": [{"history": [" "]}]}, 422, "which is blank"),
        ("POST", "/scenes/chairs/rank", {"users": [{}] * 3, "k": 4, "explain": True}, 413, "would hold 1,200 items"),
        ("POST", "/embed", {"texts": ["x" * 201]}, 413, "has 201 characters; accepted are 200"),
        ("POST", "/embed", {"texts": ["x"] * 51}, 413, "51 texts; accepted are 50"),
        ("POST", "/embed", {"texts": [["a", "b"]]}, 422, "the student reads one text, no pairs"),
        ("POST", "/embed", {"texts": ["x" * 200] * 200}, 413, "more than 20,000 bytes"),
        ("POST", "/embed", b'{"texts": [', 400, "the body is no JSON"),
        ("POST", "/embed", b"[" * 19_000, 400, ""),
        ("POST", "/embed", b"\xff\xfe", 400, ""),
        ("POST", "/embed", b'{"texts": ["\\ud800"], "\\ud800": NaN}', 422, "valid string"),
        ("POST", "/embed", None, 422, "body: Field required"),
        ("POST", "/similar", {"items": ["red lamp"]}, 422, 'has no "red lamp"; the nearest it has'),
        ("POST", "/similar", {"items": TEXTS, "scene": "chair"}, 404, "there is no scene"),
        ("POST", "/find", {"queries": [" "]}, 422, "position 0 is ' ', which is blank"),
        ("POST", "/catalogue", {"texts": [str(n) for n in range(27)]}, 413, "would have 31 items; accepted are 30"),
        ("POST", "/catalogue", {"texts": ["a", "a "]}, 422, "more than once"),
        ("POST", "/catalogue", {"texts": ["a"], "products": [0]}, 422, "one whole number of at least 1"),
    ],
)
def test_a_bad_request_is_answered_in_words(
    shop: TestClient, method: str, path: str, body: Any, status: int, words: str | None
) -> None:
    """The one who wrote the client reads the answer, not the log of the service."""
    assert shop.put("/scenes/chairs", json={"support": SUPPORT}).status_code == 201
    content = {"content": body, "headers": JSON} if isinstance(body, bytes) else {"json": body} if body else {}
    if words is None:  # 50 texts fit, but not times four candidates at 200
        shop.post("/catalogue", json={"texts": ["one more"]})
        words = "has 50 texts in its support: give fewer, or shorter histories; accepted are 40 with 5"
    answer = shop.request(method, path, **content)
    assert answer.status_code == status, answer.text
    assert set(answer.json()) == {"code", "error"}
    assert words in answer.json()["error"]
    assert shop.get("/health").json()["scenes"] == 1


def test_only_json_for_this_host_is_read(shop: TestClient) -> None:
    """A page of another site can send forms, and under another name anything, from a browser on this machine."""
    for headers in ({}, {"Content-Type": "text/plain"}, {"Content-Type": "application/x-www-form-urlencoded"}):
        assert shop.post("/embed", content=b'{"texts": ["a"]}', headers=headers).status_code == 415
    assert shop.get("/scenes", headers={"Host": "shop.example.org"}).status_code == 403
    assert shop.get("/scenes", headers={"Host": "127.0.0.1:8000"}).status_code == 200


def test_the_scenes_used_last_are_kept(shop: TestClient) -> None:
    """Memory is bounded, and a scene in use is not the one that goes."""
    for name in ("a", "b", "c"):
        shop.put(f"/scenes/{name}", json={"support": SUPPORT})
    assert shop.post("/scenes/a/rank", json={"users": [{}]}).status_code == 200
    shop.put("/scenes/d", json={"support": SUPPORT})
    assert [each["name"] for each in shop.get("/scenes").json()["scenes"]] == ["d", "a", "c"]
    large = {"support": SUPPORT[1:], "catalogue": {"texts": [*TEXTS, *map(str, range(9))]}}
    assert shop.put("/scenes/c", json=large).status_code == 200
    assert [each["name"] for each in shop.get("/scenes").json()["scenes"]] == ["c", "d"], "17 candidates of 20"
    shop.put("/scenes/a", json={"support": SUPPORT, "candidates": TEXTS[::2]})
    assert shop.delete("/scenes/a").status_code == 204
    metrics = shop.get("/metrics").text
    for line in (
        'scene_events_total{event="evicted"} 2.0',
        "scenes 2.0",
        'route="/scenes/{name}/rank",status="200"} 1.0',
        "batch_texts_count",
        'request_seconds_bucket{le="0.001",route="/scenes"}',
    ):
        assert line in metrics


def test_a_token_is_asked_for_where_there_is_one(exports: dict[str, Path]) -> None:
    """Liveness and the description are open; a wrong token is refused before a body is read."""
    service = opened(exports["known"])
    with TestClient(build(service, "s3cret"), "http://shop.example.org") as client:
        for value in (None, "s3cret", "Bearer s3cre", "Bearer ", "Basic s3cret", "Bearer s3crét"):
            headers = {} if value is None else {"Authorization": value.encode("latin-1")}
            answer = client.post("/embed", content=b"x" * 30_000, headers=headers)
            assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
        assert client.get("/metrics").status_code == 401
        assert client.post("/embed", json={"texts": ["a"]}, headers={"Authorization": "bearer s3cret"}).is_success
        assert all(client.get(path).is_success for path in ("/health", "/docs", "/openapi.json"))
        assert client.get("/openapi.json").json()["components"]["securitySchemes"]["HTTPBearer"]["scheme"] == "bearer"
        assert "http" not in client.get("/docs").text.replace("HTTP", ""), "nothing of another site"


def test_a_classifier_answers_what_it_can_and_only_that(exports: dict[str, Path]) -> None:
    """New classes need labelled texts, known ones none; neither ranks."""
    service, student = opened(exports["classifier"]), StudentClassifier.load(exports["classifier"])
    texts = ["red corvo kitchen lamp", "white elba attic chair"]
    with TestClient(build(service), "http://localhost") as client:
        made = client.put("/scenes/feed", json={"labelled": LABELLED})
        assert made.json() == {"name": "feed", "support": 3, "labels": ["lamps", "chairs"]}
        body = {"texts": texts, "probabilities": True, "explain": True}
        rows = client.post("/scenes/feed/classify", json=body).json()["texts"]
        wanted = student.adapt([(each["text"], each["label"]) for each in LABELLED]).probabilities(texts)
        assert [list(row["probabilities"].values()) for row in rows] == pytest.approx(wanted, abs=1e-5)
        assert {each["label"] for row in rows for each in row["nearest"]} == {"lamps", "chairs"}
        assert {"/scenes/{name}/rank", "/catalogue", "/classify"}.isdisjoint(
            client.get("/openapi.json").json()["paths"]
        )
        one = client.put("/scenes/feed", json={"labelled": LABELLED[:2]})
        assert (one.status_code, "at least two labels" in one.json()["error"]) == (422, True)
        twice = client.put("/scenes/feed", json={"labelled": [*LABELLED, {**LABELLED[0], "label": "chairs"}]})
        assert (twice.status_code, "is labelled" in twice.json()["error"]) == (422, True)
    service, student = opened(exports["known"]), StudentClassifier.load(exports["known"])
    with TestClient(build(service), "http://localhost") as client:
        assert sorted(client.get("/openapi.json").json()["paths"]) == ["/classify", "/embed", "/health", "/metrics"]
        rows = client.post("/classify", json={"texts": texts}).json()["texts"]
        assert [row["label"] for row in rows] == student.trained().predict(texts)
        blank = client.post("/classify", json={"texts": ["a", " "]})
        assert (blank.status_code, "position 1" in blank.json()["error"]) == (422, True)


def test_an_export_that_is_overwritten_is_served_as_it_was_read(
    exports: dict[str, Path], items: Path, tmp_path: Path
) -> None:
    """Weights that stay mapped to a file change with it, and a file that is cut ends the process with a bus error."""
    folder = tmp_path / "export"
    for path in exports["recommender"].rglob("*"):
        if path.is_file():
            copied = folder / path.relative_to(exports["recommender"])
            copied.parent.mkdir(parents=True, exist_ok=True)
            copied.write_bytes(path.read_bytes())
    service = opened(folder, items)
    with TestClient(build(service), "http://localhost") as client:

        def answers() -> Any:
            client.put("/scenes/chairs", json={"support": SUPPORT})
            return client.post("/scenes/chairs/rank", json={"users": [{"history": ["a towel"]}]}).json()

        before = answers()
        assert client.get("/health").json()["folder_changed"] is False
        for path in folder.rglob("*"):
            if path.is_file():
                path.open("r+b").truncate(0)
        assert client.get("/health").json()["folder_changed"] is True
        assert answers() == before


def test_sixty_four_clients_at_once_are_answered_without_errors(exports: dict[str, Path], items: Path) -> None:
    """Under load requests share batches and scenes; each still gets its own answer."""
    service = opened(exports["recommender"], items, Limits())
    with TestClient(build(service), "http://localhost") as client:
        client.put("/scenes/chairs", json={"support": SUPPORT})
        start = threading.Barrier(64)

        def ask(number: int) -> list[tuple[int, Any]]:
            start.wait(60)
            found = []
            for turn in range(4):
                history = [f"a lamp of {number} and {turn}", TEXTS[0]]
                answer = client.post("/scenes/chairs/rank", json={"users": [{"user": number, "history": history}]})
                found.append((answer.status_code, answer.json()["lists"][0]["user"]))
            return found

        with ThreadPoolExecutor(64) as pool:
            found = list(pool.map(ask, range(64)))
        assert found == [[(200, number)] * 4 for number in range(64)]
        lines = dict(line.rsplit(" ", 1) for line in client.get("/metrics").text.splitlines() if line[0] != "#")
        assert float(lines["hpo_serve_batch_requests_sum"]) > float(lines["hpo_serve_batch_requests_count"])


def of_dairy(case: schemathesis.Case) -> schemathesis.Case:
    """A request for a scene that is there."""
    if "name" in case.path_parameters:
        case.path_parameters["name"] = "dairy"
    return case


def of_single_texts(case: schemathesis.Case) -> schemathesis.Case:
    """A request without pairs of texts: most examples have some, and are refused here."""
    if isinstance(case.body, dict) and "texts" in case.body:
        case.body["texts"] = [text if isinstance(text, str) else text[0] for text in case.body["texts"]]
    return case


@pytest.mark.parametrize("name", ["recommender", "classifier", "known"])
def test_its_own_description_holds(exports: dict[str, Path], items: Path, name: str) -> None:
    """Whatever the description allows or forbids, no request fails the service, and every answer is as described."""
    service = opened(exports[name], items if name == "recommender" else None, Limits(characters=200))
    app: FastAPI = build(service)
    bodies = {"recommender": {"support": SUPPORT}, "classifier": {"labelled": LABELLED}}
    with TestClient(app, "http://localhost") as client:
        schema = schemathesis.openapi.from_asgi("/openapi.json", app)
        checks = [
            schemathesis.checks.not_a_server_error,
            schemathesis.specs.openapi.checks.status_code_conformance,
            schemathesis.specs.openapi.checks.content_type_conformance,
            schemathesis.specs.openapi.checks.response_schema_conformance,
            schemathesis.specs.openapi.checks.negative_data_rejection,
        ]
        served: set[tuple[str, int]] = set()
        phases = [Phase.explicit, Phase.generate]
        bounded = settings(
            max_examples=40 if name == "known" else 10,
            derandomize=True,
            deadline=None,
            database=None,
            phases=phases,
            suppress_health_check=list(HealthCheck),
        )

        def holds(case: schemathesis.Case) -> None:
            if name in bodies:
                client.put("/scenes/dairy", json=bodies[name])
            answer = case.call_and_validate(base_url="http://localhost", checks=checks)
            served.add((case.operation.path, answer.status_code // 100))

        for operation, mode in itertools.product(schema.get_all_operations(), schemathesis.GenerationMode):
            cases = operation.ok().as_strategy(generation_mode=mode)
            if mode == schemathesis.GenerationMode.POSITIVE:
                there = cases.map(of_dairy)
                bounded(given(case=there | there.map(of_single_texts))(holds))()
            elif operation.ok().method != "get":  # else there is nothing that could be wrong
                bounded(given(case=cases)(holds))()
    paths = {"recommender": "/scenes/{name}/rank", "classifier": "/scenes/{name}/classify", "known": "/classify"}
    assert {(paths[name], 2), (paths[name], 4), ("/embed", 2), ("/embed", 4)} <= served


def test_the_process_ends_what_it_has_begun_and_exits_with_0(exports: dict[str, Path], items: Path) -> None:
    """Rolling updates stop servers under load: a request that has begun is answered, the exit is no failure."""
    process = fork("serve", exports["recommender"], "--catalogue", items, "--port", "0")
    output = Path(process._written[0].name)
    wait_for(lambda: "\n" in output.read_text(), process)
    url = output.read_text().strip()
    assert httpx.put(f"{url}/scenes/chairs", json={"support": SUPPORT}).status_code == 201
    host, port = url.removeprefix("http://").split(":")
    body = b'{"users": [{}]}'
    with socket.create_connection((host, int(port))) as begun:
        head = f"POST /scenes/chairs/rank HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
        begun.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body[:5])
        wait_for(lambda: "hpo_serve_requests_running 2.0" in httpx.get(f"{url}/metrics").text, process)
        process.send_signal(15)
        wait_for(lambda: socket.socket().connect_ex((host, int(port))), process)
        begun.sendall(body[5:])
        assert begun.recv(1000).startswith(b"HTTP/1.1 200 OK")
    assert process.wait(60) == 0
    said = process.communicate()[1]
    assert f"try: curl {url}/embed" in said
    assert said.endswith("stopped\n")


def test_connections_name_tcp_so_that_asyncio_sends_at_once() -> None:
    """Without TCP_NODELAY every answer waits 40 ms for the client's acknowledgement; asyncio sets it by this."""
    with server.bind("127.0.0.1", 0) as bound:
        bound.listen()
        with socket.create_connection(bound.getsockname()), bound.accept()[0] as accepted:
            assert accepted.proto == socket.IPPROTO_TCP


def test_what_cannot_be_served_is_refused_in_one_line(
    exports: dict[str, Path], items: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At start somebody looks; later nobody does."""
    (tmp_path / "token").write_text(" \n")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        cases = [
            (["--host", "0.0.0.0"], "there is no token"),
            (["--token-file", tmp_path / "token"], "is blank or has spaces"),
            (["--token-file", tmp_path / "none"], "cannot be read"),
            (["--port", taken.getsockname()[1]], "Address already in use"),
            (["--host", "203.0.113.7"], "there is no token"),
            (["--host", "203.0.113.7", "--no-token"], "cannot listen on --host 203.0.113.7"),
            (["--device", "cuda"], "torch finds no CUDA device"),
            (["--catalogue", items], "holds a classifier, which has no catalogue"),
            (["--backend", "onnx"], "has no onnx/model.onnx"),
        ]
        for arguments, words in cases:
            done = call("serve", exports["classifier"], *map(str, ["--port", "0", *arguments]))
            assert (done.returncode, words in done.stderr) == (2, True), done.stderr
            assert len(done.stderr.splitlines()) == 1
    monkeypatch.setattr(server, "_PACKAGES", ("fastapi", "no_such_package"))
    done = call("serve", exports["classifier"])
    assert (
        "needs the package no-such-package, which is not installed; run: pip install 'scenetune[serve]'" in done.stderr
    )
