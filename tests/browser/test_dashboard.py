"""`hpo dashboard` in a real browser, on a real PostgreSQL: what people see of a search and of its distillation."""

import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from distill.inference import StudentRecommender
from storage.database.embedded import EmbeddedPostgres
from storage.database.postgres import connect
from storage.files import checkpoints
from tests.browser.test_report import ARGUMENTS, BROWSER
from tests.whole import whole

api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed; pip install playwright")
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium here; apt-get install chromium")
# Of the page as optuna-dashboard draws it: its own cards, and ours.
CARDS = ("Intermediate values", "Finished trials by learner", "Recall of finished trials against cost")
# Kept as build output: what people see.
SCREENSHOTS = Path(__file__).parents[2] / "build" / "screenshots"


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Iterator[Path]:
    """A home with a whole study, nothing of it played, and a database that the tests may stop."""
    folder = tmp_path_factory.mktemp("watched")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HPO_HOME", str(folder))
        postgres = EmbeddedPostgres(folder)
        database = connect(postgres.start())
        whole(database, folder, "watched")
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


def kept(page: "api.Page", name: str) -> None:
    """Keeps a picture of the whole page, with what boxes scroll in it."""
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.wait_for_load_state("networkidle")
    height = page.evaluate("Math.max(...[...document.querySelectorAll('body, body *')].map(box => box.scrollHeight))")
    page.set_viewport_size({"width": 1400, "height": min(height + 120, 8000)})
    page.screenshot(path=SCREENSHOTS / f"{name}.png")


def downloaded(page: "api.Page", folder: Path, number: int = 0) -> Path:
    """What comes of the artifact on a page, by its place there; a ZIP unzipped."""
    buttons = page.get_by_label("download artifact")
    buttons.first.wait_for(timeout=30_000)
    with page.expect_download() as download:
        buttons.nth(number).click()
    path = folder / download.value.suggested_filename
    download.value.save_as(path)
    if path.suffix != ".zip":
        return path
    with zipfile.ZipFile(path) as archive:
        archive.extractall(folder)
    return folder / path.stem


def shows(page: "api.Page", *texts: str) -> None:
    """Waits until the page shows each of the texts."""
    for text in texts:
        page.get_by_text(text).first.wait_for(timeout=30_000)


def test_the_list_has_both_studies(page, address):
    """The distillation is a study of its own, on the same database."""
    page.goto(address.rpartition("/studies")[0])
    shows(page, "watched-distill", "1. watched")
    kept(page, "studies")


def test_the_printed_page_shows_curves_and_plots(page, address):
    """What people look at first: where the recall comes from, and who wins."""
    page.goto(address)
    shows(page, *CARDS)
    page.wait_for_function("document.querySelectorAll('.js-plotly-plot .main-svg').length >= 12")
    kept(page, "study")


def test_the_note_answers_and_leads_to_the_students(page, address):
    """Who wins, what pruning saved, where the checkpoint is."""
    page.goto(f"{address}/note")
    shows(page, "12 of 12 trials", "Best trials", "What pruning saved", "best checkpoint", "hpo report watched")
    kept(page, "note")
    page.get_by_role("link", name="study", exact=True).click()
    shows(page, "Students: recall against time")
    page.wait_for_function("document.querySelectorAll('.js-plotly-plot .main-svg').length >= 6")
    kept(page, "distillation")


def test_the_best_checkpoint_is_on_its_trial_and_loads(page, address, tmp_path):
    """What people come for at the end; by its path they find it on the machine alone where it was trained."""
    page.goto(f"{address}/note")
    shows(page, "best checkpoint")
    page.locator("a[href*='trials?numbers=']").first.click()
    shows(page, "checkpoint.zip")
    kept(page, "trial")
    tensors, metadata = checkpoints.load(downloaded(page, tmp_path))
    assert tensors
    assert metadata["reached"]["step"] == 4


def test_the_student_on_its_trial_ranks_and_its_report_opens(page, address, tmp_path):
    """An export that came through the browser is served like one that never left its folder."""
    page.goto(f"{address}/note")
    shows(page, "exported student")
    page.get_by_role("link", name="study", exact=True).click()
    shows(page, "Students: recall against time")
    page.goto(f"{page.url}/note")
    shows(page, "the student to export")
    page.locator("a[href*='trials?numbers=']").first.click()
    shows(page, "watched-export.zip", "watched-report.html", "checkpoint.zip")
    for place in range(3):
        downloaded(page, tmp_path, place)
    student = StudentRecommender.load(tmp_path / "watched-export")
    lamps = ["red acme small attic lamp", "blue bolt large attic lamp"]
    scene = student.catalogue(lamps).adapt(support=[([], lamps[0])])
    assert len(scene.rank([[]], k=2).items[0]) == 2
    [checkpoint] = (path for path in tmp_path.glob("*-checkpoint") if path.is_dir())
    assert checkpoints.load(checkpoint)[0]


def test_the_report_opens_from_the_note(page, address):
    """It is on the disk of whoever ran the job."""
    page.goto(f"{address}/note")
    page.get_by_role("link", name="report", exact=True).click()
    page.get_by_role("heading", name="watched").first.wait_for(timeout=30_000)
    kept(page, "report")


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
