"""The report in a real browser: it opens from a disk without a network, at any width, and prints."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.report_document import document, write

api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed; pip install playwright")
BROWSER = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chromium-browser"))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium here; apt-get install chromium")
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="module")
def browser() -> Iterator["api.Browser"]:
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="module", params=[False, True], ids=["whole job", "baselines only"])
def report(request, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    return write(document(scenes=70, baselines_only=request.param), folder)[0]


@pytest.mark.parametrize("width", [1280, 400, 360])
def test_it_opens_quietly_and_fits(browser, report, width):
    """No error, no request but for the file itself, no figure without size; wide tables scroll in their own box."""
    page = browser.new_page(viewport={"width": width, "height": 900})
    said, asked, failed = [], [], []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.on("requestfailed", lambda request: failed.append(request.url))
    page.on("dialog", lambda dialog: pytest.fail(f"a script ran: {dialog.message}"))
    page.goto(report.as_uri())
    assert (said, asked, failed) == ([], [report.as_uri()], [])
    assert page.title().startswith("quickstart")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    sizes = [drawing.bounding_box() for drawing in page.locator("svg").all()]
    assert sizes
    assert all(size["width"] > 200 and size["height"] > 100 for size in sizes)
    escaped = "[...document.querySelectorAll('table')].filter(t => t.scrollWidth > innerWidth && !t.closest('.scroll'))"
    assert page.evaluate(f"{escaped}.length") == 0
    page.close()


def test_labels_stay_inside_their_figures(browser, report):
    """A name cut off at the edge of its figure cannot be looked up in the table."""
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.goto(report.as_uri())
    outside = """[...document.querySelectorAll('svg')].flatMap(svg => {
        const box = svg.getBoundingClientRect()
        return [...svg.querySelectorAll('text')].filter(text => {
            const own = text.getBoundingClientRect()
            return own.left < box.left || own.right > box.right || own.top < box.top || own.bottom > box.bottom
        }).map(text => text.textContent)
    })"""
    assert page.evaluate(outside) == []
    page.close()


def test_it_prints(browser, report, tmp_path):
    page = browser.new_page()
    page.goto(report.as_uri())
    printed = page.pdf(prefer_css_page_size=True)
    assert printed.startswith(b"%PDF")
    assert 1 < printed.count(b"/Type /Page\n") + printed.count(b"/Type /Page ") < 30
    page.close()
