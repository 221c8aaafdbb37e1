"""Take the pictures of README and docs/benchmarks.md from a finished study.

    python docs/screenshots.py STUDY [--database URL] [--report FOLDER] [--out docs/images]

Needs a Chromium and playwright, as the browser tests do.
"""

import argparse
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image  # matplotlib brings it
from playwright.sync_api import Locator, Page, sync_playwright

from hpo.dashboard.page import Page as StudyPage
from hpo.registry import distillation_name, load_spec_of
from storage.database.postgres import connect, database_url

WIDTH, HEIGHT, SCALE = 1280, 900, 1.5
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chromium-browser"))), None)
PLOTS = ("Recall of finished trials", "Finished trials by learner", "of the best trials by", "What matters")


def main() -> None:
    """Take all pictures that the study has data for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("study", metavar="STUDY")
    parser.add_argument("--database", metavar="URL", help="by default as for hpo")
    parser.add_argument("--report", metavar="FOLDER", type=Path, help="by default reports/STUDY")
    parser.add_argument("--out", metavar="FOLDER", type=Path, default=Path("docs/images"))
    given = parser.parse_args()
    url = database_url(given.database)
    database = connect(url)
    StudyPage(database, load_spec_of(database, given.study)).write()
    search = database.storage.get_study_id_from_name(given.study)
    given.out.mkdir(parents=True, exist_ok=True)
    with served(url) as address, browser() as page:
        take_search(page, f"{address}/studies/{search}", given.out)
        if distillation_name(given.study) in {each.study_name for each in database.storage.get_all_studies()}:
            students = database.storage.get_study_id_from_name(distillation_name(given.study))
            page.goto(f"{address}/studies/{students}")
            page.wait_for_load_state("networkidle")
            page.wait_for_timeout(3000)  # there may be no plot to wait for
            if (front := page.locator(".js-plotly-plot", has_text="Students: recall")).count():
                keep(page, given.out / "students.png", front)
        report = (given.report or Path("reports", given.study)) / "report.html"
        if report.exists():
            page.set_viewport_size({"width": WIDTH, "height": 1500})
            page.goto(report.absolute().as_uri())
            keep(page, given.out / "report.png")
        else:
            print(f"no picture of the report: there is no {report}; name its folder with --report", file=sys.stderr)


def take_search(page: Page, address: str, out: Path) -> None:
    """Take the plots, the note, and the best trial with its checkpoint."""
    page.goto(address)
    plots = page.locator(".js-plotly-plot")
    plots.filter(has_text=PLOTS[0]).wait_for()
    page.wait_for_load_state("networkidle")
    fit(page)
    shown = [plots.filter(has_text=title) for title in PLOTS]
    keep(page, out / "study.png", *(plot for plot in shown if plot.count()))
    page.set_viewport_size({"width": WIDTH, "height": HEIGHT})
    page.goto(f"{address}/note")
    best = page.locator("a[href*='trials?numbers=']").first
    best.wait_for()
    fit(page)
    keep(page, out / "note.png")
    best.click()
    page.get_by_text("Artifacts").first.wait_for()
    page.set_viewport_size({"width": WIDTH, "height": 1100})
    keep(page, out / "trial.png")


@contextmanager
def served(url: str) -> Iterator[str]:
    """Serve the dashboard and yield its address."""
    command = [sys.executable, "-m", "hpo", "dashboard", "--port", "0", "--read-only", "--database", url]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip()
    finally:
        process.terminate()
        process.wait()


@contextmanager
def browser() -> Iterator[Page]:
    """Open a browser and yield a page."""
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield opened.new_page(viewport={"width": WIDTH, "height": HEIGHT}, device_scale_factor=SCALE)
        opened.close()


def fit(page: Page) -> None:
    """Make the window as high as its content, including boxes that scroll."""
    page.wait_for_load_state("networkidle")
    height = page.evaluate("Math.max(...[...document.querySelectorAll('main, main *')].map(e => e.scrollHeight))")
    page.set_viewport_size({"width": WIDTH, "height": max(HEIGHT, min(int(height) + 120, 4000))})
    page.wait_for_timeout(1500)  # plots are drawn again for the new size


def keep(page: Page, path: Path, *parts: Locator) -> None:
    """Write a picture of the window, or of the box around some parts, in 128 colours: a third of the bytes."""
    clip = None
    if parts:
        for part in parts:
            part.wait_for()
        boxes = [box for part in parts if (box := part.bounding_box())]
        left, top = min(box["x"] for box in boxes), min(box["y"] for box in boxes)
        right, bottom = max(b["x"] + b["width"] for b in boxes), max(b["y"] + b["height"] for b in boxes)
        clip = {"x": left, "y": top, "width": right - left, "height": bottom - top}
    page.wait_for_timeout(1500)
    page.screenshot(path=path, clip=clip, full_page=clip is not None)
    picture = Image.open(path).convert("RGB").quantize(128, dither=Image.Dither.NONE)
    picture.save(path, optimize=True)
    print(f"{path}: {path.stat().st_size // 1000} kB")


if __name__ == "__main__":
    main()
