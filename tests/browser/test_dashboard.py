"""`hpo dashboard` in a real browser, on a real PostgreSQL: what people see of a search and of its distillation."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hpo.dashboard.page import Page
from storage.embedded import EmbeddedPostgres
from storage.postgres import connect
from tests.browser.test_report import ARGUMENTS, BROWSER
from tests.contract.test_hpo_dashboard import distilled
from tests.watched import searched, spec

api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium here; apt-get install chromium")
# Of the page as optuna-dashboard draws it: its own cards, and ours.
CARDS = ("Intermediate values", "Finished trials by learner", "Recall of finished trials against cost")


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Iterator[Path]:
    """A home with a search of 18 trials and its distillation, and a database that the tests may stop."""
    folder = tmp_path_factory.mktemp("watched")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HPO_HOME", str(folder))
        postgres = EmbeddedPostgres(folder)
        database = connect(postgres.start())
        study = spec("watched", trials=18)
        searched(database, study)
        distilled(database, study)
        Page(database, study).write()
        database.engine.dispose()
    yield folder
    postgres.stop(force=True)
    shutil.rmtree(postgres.folder, ignore_errors=True)


@pytest.fixture(scope="module", params=[(), ("--read-only",)], ids=["ordinary", "read-only"])
def address(request, home) -> Iterator[str]:
    """Where the command says that the study's page is."""
    command = [sys.executable, "-m", "hpo", "dashboard", "watched", "--port", "0", *request.param]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | {"HPO_HOME": str(home)})
    yield process.stdout.readline().strip()
    process.terminate()
    assert process.wait(timeout=20) == 0


@pytest.fixture
def page(address) -> Iterator["api.Page"]:
    """An empty page of a browser; errors that are said in it fail the test."""
    said = []
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=ARGUMENTS)
        page = browser.new_page(viewport={"width": 1400, "height": 1000})
        page.on("console", lambda message: message.type in ("error", "warning") and said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.said = said
        yield page
        browser.close()
    assert said == []


def shows(page: "api.Page", *texts: str) -> None:
    """Waits until the page shows each of the texts."""
    for text in texts:
        page.get_by_text(text).first.wait_for(timeout=30_000)


def test_the_list_has_both_studies(page, address):
    """The distillation is a study of its own, on the same database."""
    page.goto(address.rpartition("/studies")[0])
    shows(page, "watched-distill", "1. watched")


def test_the_printed_page_shows_curves_and_plots(page, address, tmp_path):
    """What people look at first: where the recall comes from, and who wins."""
    page.goto(address)
    shows(page, *CARDS)
    page.wait_for_function("document.querySelectorAll('.js-plotly-plot .main-svg').length >= 12")
    page.screenshot(path=tmp_path / "study.png", full_page=True)


def test_the_note_answers_and_leads_to_the_students(page, address):
    """Who wins, what pruning saved, where the checkpoint is."""
    page.goto(f"{address}/note")
    shows(page, "18 of 18 trials", "Best trials", "What pruning saved", "Best checkpoint", "hpo distill watched")
    page.get_by_role("link", name="watched-distill").click()
    shows(page, "Students: recall against time")


def test_a_study_is_not_deleted_from_the_browser(page, address):
    """Its records and checkpoints would stay behind."""
    page.goto(address)
    shows(page, CARDS[0])
    study = address.rpartition("/")[2]
    assert page.evaluate(f"fetch('/api/studies/{study}', {{method: 'DELETE'}}).then(answer => answer.status)") == 403
    assert "403" in page.said.pop()
    page.reload()
    shows(page, CARDS[0])


def test_the_last_picture_stays_while_the_database_is_away(page, address, home, monkeypatch):
    """A page that goes blank, or pretends that nothing happened, is of no use in an outage."""
    monkeypatch.setenv("HPO_HOME", str(home))
    page.goto(address)
    shows(page, CARDS[0])
    postgres = EmbeddedPostgres(home)
    postgres.stop(force=True)
    try:
        shows(page, "the database is away")
        assert page.get_by_text(CARDS[0]).first.is_visible()
    finally:
        postgres.start()
    assert all("503" in words for words in page.said)
    page.said.clear()
    page.reload()
    shows(page, *CARDS)
