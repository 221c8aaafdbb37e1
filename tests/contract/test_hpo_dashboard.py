"""What optuna-dashboard is given to show, on a real PostgreSQL, and what its server answers."""

import json
import re
import threading
import urllib.error
import urllib.request
from wsgiref.util import setup_testing_defaults

import optuna
import optuna_dashboard
import pytest
import torch
from optuna_dashboard import save_note
from optuna_dashboard._custom_plot_data import get_plotly_graph_objects
from optuna_dashboard._note import get_note

from hpo.artifacts import attach_checkpoint
from hpo.dashboard import note, plots, server
from hpo.dashboard.downloads import ToBrowsers
from hpo.dashboard.guard import READS, Guard
from hpo.dashboard.page import Page
from hpo.dashboard.study_facts import Gatherer
from hpo.ownership import owned_distillation, owned_search
from hpo.results.students import create_distillation
from hpo.status.console import Console
from storage.database.embedded import EmbeddedPostgres
from storage.database.postgres import connect
from storage.database.records import Records
from storage.errors import InputError
from storage.files import checkpoints
from tests import report_document
from tests.watched import searched, spec


@pytest.fixture
def study(database):
    """A finished search."""
    made = spec()
    searched(database, made)
    return made


def shown(database, name):
    """A study's note and figures, as the dashboard reads them."""
    study = optuna.load_study(storage=database.storage, study_name=name)
    attributes = database.storage.get_study_system_attrs(study._study_id)
    return get_note(study), {key: json.loads(text) for key, text in get_plotly_graph_objects(attributes).items()}


def distilled(database, study):
    """Two students as a distillation leaves them."""
    owned, students = owned_distillation(database, study.name), create_distillation(database, study)
    for recall, latency in ((0.5, 0.6), (0.4, 0.3)):
        trial = students.ask()
        trial.suggest_int("layers", 1, 6)
        trial.set_user_attr("latency", latency)
        trial.set_user_attr("size", latency)
        folder = owned.trial_folder(trial.number)
        checkpoints.save(folder, 1, {"weight": torch.full((4,), recall)}, {"step": 1})
        attach_checkpoint(trial, trial.number)
        students.tell(trial, [recall])
    return students


def test_the_page_says_who_won_and_by_how_much_what_it_cost_and_where_it_is(database, study):
    """Whoever opens the study in the dashboard would otherwise have to ask the command line."""
    Page(database, study).write()
    text, figures = shown(database, study.name)
    facts = Gatherer(database, study).gather()
    best, reached = facts.ranked[0]
    assert f"| #{best.number} | {best.learner} | {reached.recall:.4f} [" in text
    assert str(owned_search(database, study.name).trial_folder(reached.chain)) in text
    assert "saved" in text
    assert "of the control group ran to the end" in text
    assert facts.record.fingerprint[:16] in text
    assert "hpo distill" in text
    assert "24 of 24 trials" in text
    assert set(figures) == {"recall-against-cost", "learners", "scenes"}
    assert "What matters: too few trials were evaluated to tell" in text


def test_the_best_so_far_only_rises_and_ends_where_the_search_does(database, study):
    """A curve of all trials, or one that stops at the winner, is no incumbent."""
    facts = Gatherer(database, study).gather()
    lines = [trace for trace in plots.of_search(facts)["recall-against-cost"].data if trace["mode"] == "lines"]
    [line] = lines
    assert line["y"] == sorted(line["y"])
    assert line["y"][-1] == pytest.approx(facts.ranked[0][1].recall, abs=1e-4)
    assert line["x"][-1] == pytest.approx(max(reached.spent for reached in facts.finished) / 60, abs=1e-3)
    assert max(reached.spent for reached in facts.finished) <= facts.shot.cost_seconds + 1e-6


def test_names_cannot_break_the_note(database, study):
    """A study may be called like a column or a tag of Markdown."""
    Page(database, study).write()
    text, _ = shown(database, study.name)
    assert text.startswith("## shop\\|\\<b\\>one\n")
    assert "hpo distill 'shop|<b>one'" in text


def test_what_people_write_below_the_line_stays(database, study):
    """A note that is rewritten every half minute would swallow theirs."""
    Page(database, study).write()
    watched = optuna.load_study(storage=database.storage, study_name=study.name)
    save_note(watched, get_note(watched) + "anil again, with more steps?")
    Records(database.engine).finish_stage(study.name, "evaluation", report_document.document()["evaluation"])
    Page(database, study).write()
    text = get_note(watched)
    assert text.endswith("anil again, with more steps?")
    assert text.count(note.END) == 1
    assert "student" in text


def test_nothing_is_written_where_nothing_is_new(database, study):
    """Every write is a version that an open browser fetches."""
    page = Page(database, study)
    page.write()
    before = database.storage.get_study_system_attrs(database.storage.get_study_id_from_name(study.name))
    page.write()
    after = database.storage.get_study_system_attrs(database.storage.get_study_id_from_name(study.name))
    assert before == after


def test_a_study_without_trials_has_a_page_too(database):
    """The page is first written before the first worker has begun."""
    from hpo.registry import register

    empty = spec("empty")
    register(database, empty, "f" * 64)
    Page(database, empty).write()
    text, figures = shown(database, "empty")
    assert "0 of 24 trials (no trial yet)" in text
    assert figures == {}


def test_search_and_distillation_lead_to_each_other(database, study):
    """They are two studies in the list, and nothing else says that they belong together."""
    students = distilled(database, study)
    Page(database, study).write()
    search = database.storage.get_study_id_from_name(study.name)
    text, _ = shown(database, study.name)
    assert f"(/dashboard/studies/{students._study_id})" in text
    text, figures = shown(database, students.study_name)
    assert f"(/dashboard/studies/{search})" in text
    assert "| 0 | 0.5000 | 0.60× | 0.60× | chosen |" in text
    assert figures["front"]["data"][0]["x"] == [0.3, 0.6]
    assert students.metric_names == ["recall@10"]
    assert optuna.load_study(storage=database.storage, study_name=study.name).metric_names == ["recall@10"]


def test_a_figure_is_never_read_half_written(database, study, monkeypatch):
    """The dashboard would fail to parse it: writes that belong together are one transaction."""
    states = []
    store = type(database.storage)._store

    def counted(self, writes):
        states.append(len(writes))
        store(self, writes)

    monkeypatch.setattr(type(database.storage), "_store", counted)
    Page(database, study).write()
    assert len(states) == 1
    assert states[0] > 5


def test_an_outage_is_told_and_over_when_the_database_is_back(tmp_path, capfd):
    """A server that hangs, or serves errors ever after, has to be found out and started again by hand."""
    postgres = EmbeddedPostgres(tmp_path / "own")
    database = connect(postgres.start())
    searched(database, spec(trials=3))
    storage = server.watched_storage(database, Console())
    database.engine.dispose()
    app = server.application(storage, ToBrowsers(database), Guard())
    assert call(app, "/api/studies/1")[0] == 200
    postgres.stop(force=True)
    for _ in range(2):
        status, words = call(app, "/api/studies/1")
        assert (status, "the database is away" in words.decode()) == (503, True)
    postgres.start()
    assert call(app, "/api/studies/1")[0] == 200
    said = capfd.readouterr().err
    assert (said.count("the database is away"), said.count("the database is back")) == (1, 1)
    storage._backend.engine.dispose()
    postgres.stop()


def call(app, path):
    """Status and answer of a WSGI application to a GET."""
    status = []
    environment = {"PATH_INFO": path}
    setup_testing_defaults(environment)
    body = b"".join(app(environment, lambda line, headers, *rest: status.append(int(line.split()[0]))))
    return status[0], body


@pytest.fixture
def serving(database, request):
    """The server's address."""
    storage = server.watched_storage(database, Console())
    made = server.listen("127.0.0.1", 0, Console())
    guard = Guard("127.0.0.1", ["HPO.example.org"], read_only=getattr(request, "param", False))
    made.set_app(server.application(storage, ToBrowsers(database), guard))
    thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield f"http://127.0.0.1:{made.server_port}"
    made.shutdown()
    thread.join()
    made.server_close()
    storage._backend.engine.dispose()


def ask(url, method="GET", body=None, **headers):
    """Status and answer of a request."""
    data = None if body is None else json.dumps(body).encode()
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"} | headers, method=method)
    try:
        with urllib.request.urlopen(request) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


WRITES = (
    ("POST", "/api/studies", {"study_name": "new", "directions": ["minimize"]}),
    ("PUT", "/api/studies/{id}/note", {"version": 99, "body": "x"}),
    ("POST", "/api/trials/{trial}/user-attrs", {"user_attrs": {"x": 1}}),
    ("POST", "/api/studies/{id}/rename", {"study_name": "other"}),
    ("DELETE", "/api/studies/{id}", None),
)


@pytest.mark.parametrize("serving", [True], indirect=True)
def test_read_only_answers_reads_alone(database, study, serving):
    """Who may look at a study from afar may not delete it."""
    id_ = database.storage.get_study_id_from_name(study.name)
    trial = database.storage.get_all_trials(id_)[0]._trial_id
    before = database.storage.get_study_system_attrs(id_)
    for method, path, body in WRITES:
        status, words = ask(serving + path.format(id=id_, trial=trial), method, body)
        assert (status, "--read-only" in words.decode()) == (403, True), path
    assert database.storage.get_study_system_attrs(id_) == before
    status, words = ask(f"{serving}/api/studies/{id_}")
    assert status == 200
    assert len(json.loads(words)["trials"]) == len(database.storage.get_all_trials(id_))


def test_browsers_change_notes_and_nothing_else(database, study, serving):
    """A trial ended from outside breaks `hpo run` for good; a study deleted there leaves its checkpoints about."""
    id_ = database.storage.get_study_id_from_name(study.name)
    trial = database.storage.create_new_trial(id_)
    before = (database.storage.get_all_studies(), database.storage.get_all_trials(id_))
    app = optuna_dashboard.wsgi(database.storage, artifact_store=ToBrowsers(database))
    routes = {(route.method, route.rule) for route in app.routes if route.method not in READS}
    for method, rule in routes:
        path = re.sub(r"<study_id.*?>", str(id_), re.sub(r"<trial_id.*?>", str(trial), rule))
        path = re.sub(r"<artifact_id.*?>|<history_id.*?>", "ab", path)
        status, words = ask(serving + path, method, {"state": "Complete", "values": [1.0], "user_attrs": {"x": 1}})
        if rule.endswith("/note"):
            assert status == 400, rule
        else:
            assert (status, "hpo delete" in words.decode()) == (403, True), rule
    assert {"/api/trials/<trial_id:int>/tell", "/api/studies", "/api/studies/<study_id:int>"} <= {r for _, r in routes}
    assert (database.storage.get_all_studies(), database.storage.get_all_trials(id_)) == before
    note = {"version": 1, "body": "mine"}
    assert ask(f"{serving}/api/studies/{id_}/note", "PUT", note)[0] == 204
    assert ask(f"{serving}/api/studies/{id_}/{trial}/note", "PUT", note)[0] == 204


def test_pages_of_other_sites_neither_read_nor_write(database, study, serving):
    """There is no login: a page whose name comes to resolve to this machine would read and change every study."""
    port = serving.rpartition(":")[2]
    for host in (f"rebound.example:{port}", "rebound.example", "localhost.rebound.example", "", "[::1", "example.org"):
        status, words = ask(f"{serving}/api/studies", Host=host)
        assert (status, "--allowed-host" in words.decode()) == (403, True), host
    note = f"{serving}/api/studies/{database.storage.get_study_id_from_name(study.name)}/note"
    for foreign in (
        {"Origin": "http://rebound.example"},
        {"Origin": "http://localhost:1"},
        {"Origin": "null"},
        {"Origin": "https://rebound.example", "Host": "hpo.example.org"},
        {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site"},
    ):
        status, words = ask(note, "PUT", {"version": 1, "body": "x"}, **foreign)
        assert (status, "another site" in words.decode()) == (403, True), foreign
    ours = (
        {"Origin": serving, "Sec_Fetch_Site": "same-origin"},
        {"Origin": f"http://localhost:{port}", "Host": f"localhost:{port}"},
        {"Origin": f"http://[::1]:{port}", "Host": f"[::1]:{port}"},
        # A reverse proxy that keeps the name, and one that does not.
        {"Origin": "https://hpo.example.org", "Host": "hpo.example.org"},
        {"Origin": "https://hpo.example.org", "Host": f"127.0.0.1:{port}"},
    )
    for version, headers in enumerate(ours, 1):
        assert ask(note, "PUT", {"version": version, "body": "x"}, **headers)[0] == 204, headers


def test_a_further_name_has_to_be_one():
    """An address with its scheme would match no request, and every browser would be refused."""
    with pytest.raises(InputError, match=r"--allowed-host https://hpo\.example\.org"):
        Guard(allowed_hosts=["https://hpo.example.org"])


def test_the_next_port_is_taken_and_said(capfd):
    """Two people on one machine, or a dashboard that was forgotten in another terminal."""
    first = server.listen("127.0.0.1", 0, Console())
    second = server.listen("127.0.0.1", first.server_port, Console())
    assert second.server_port > first.server_port
    assert f"port {first.server_port} is in use; {second.server_port} is taken" in capfd.readouterr().err
    first.server_close()
    second.server_close()


def test_an_address_of_another_machine_is_refused():
    """A traceback of the socket library says nothing of --host."""
    with pytest.raises(InputError, match=r"--host 192\.0\.2\.1"):
        server.listen("192.0.2.1", 0, Console())
