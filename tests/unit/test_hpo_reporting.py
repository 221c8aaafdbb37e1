"""The page must say what the document says: every figure, in order, and nothing that a name smuggles in."""

import copy
import html.parser
import json
import math
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from hpo.reporting.blocks import Cell, Code, Commands, Items, Link, Report, Section, Table, Text
from hpo.reporting.document import StudyDocument
from hpo.reporting.renderers import markdown
from hpo.reporting.renderers.page import render
from hpo.reporting.renderers.terminal import print_blocks
from hpo.reporting.results import Results
from hpo.reporting.sections.outcome import adapt_outcome
from hpo.reporting.sections.reasons import MEANINGS, reasons
from hpo.reporting.sections.report import verdicts
from hpo.reporting.svg import COMPLETE, OTHER, STOPPED, STYLES, shorten
from hpo.results.outcome import AdaptResult
from hpo.results.task_stages import STAGES
from hpo.status.console import Console
from studies.classification.scoring.baselines import FROZEN_CENTROIDS
from studies.escaping import markdown_code, markdown_text, visible
from studies.evaluation.intervals import Interval, bootstrap
from studies.model.explanation import CANDIDATE_TERMS, USER_TERMS
from tests.report_document import HOSTILE, SHOTS, TEACHER, as_classification, document, interval, write

ROOT = Path(__file__).parents[2]
DIRECT = f"{TEACHER}, not adapted"


class Page(html.parser.HTMLParser):
    """A page's text, attributes and tables, as a browser would read them."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags, self.attributes, self.text, self.captions, self.tables = [], [], "", [], []
        self._inside = ""
        self.feed(source)

    def handle_starttag(self, tag, attrs):
        """Opens tables, rows, cells and captions."""
        self.tags.append(tag)
        self.attributes += attrs
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
        elif tag == "figcaption":
            self.captions.append("")
        self._inside = tag if tag != "span" else self._inside

    def handle_endtag(self, tag):
        """Closes what text goes to."""
        self._inside = "" if tag in ("td", "th", "figcaption") else self._inside

    def handle_data(self, data):
        """Text, all of it and where it belongs."""
        self.text += data
        if self._inside in ("td", "th"):
            self.tables[-1][-1][-1] += data
        elif self._inside == "figcaption":
            self.captions[-1] += data

    def table(self, *columns):
        """The rows under a heading that starts with these columns."""
        return next(rows[1:] for rows in self.tables if tuple(rows[0][: len(columns)]) == columns)

    def values(self, name):
        """Every value of an attribute."""
        return [value for key, value in self.attributes if key == name]


def pages(found, folder):
    write(found, folder)
    return Page((folder / "report.html").read_text("utf-8")), (folder / "report.md").read_text("utf-8")


@pytest.fixture(scope="module")
def found():
    return document()


@pytest.fixture(scope="module")
def folder(found, tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    write(found, folder)
    return folder


@pytest.fixture(scope="module")
def page(folder):
    return Page((folder / "report.html").read_text("utf-8"))


def shown(figures, form="{:.3f}"):
    if figures is None:
        return "–"
    return "{} [{}, {}]".format(*(form.format(figures[key]) for key in ("mean", "low", "high")))


def markdown_tables(text):
    """Every table's rows, with the escapes and the emphasis taken off."""
    for block in text.split("\n\n"):
        if block.startswith("|"):
            rows = [re.split(r"(?<!\\)\|", line)[1:-1] for line in block.splitlines()]
            yield [
                [re.sub(r"\\(.)", r"\1", cell.strip().removeprefix("**").removesuffix("**")) for cell in row]
                for row in rows
            ]


def test_the_page_needs_nothing_else(folder, page):
    """It is mailed, archived and opened years later, offline."""
    source = (folder / "report.html").read_text("utf-8")
    assert set(re.findall(r"https?:[^\s\"'<>]*", source)) == {"http://www.w3.org/2000/svg"}
    assert not {"script", "link", "img", "iframe", "object", "base"} & set(page.tags)
    assert "@import" not in source
    assert {reference[:1] for reference in re.findall(r"url\(([^)]*)", source)} == {"#"}
    assert all(value.startswith("#") for value in page.values("href"))
    assert not [key for key, _ in page.attributes if key.startswith("on") or key == "src"]
    assert "<title>quickstart" in source
    assert '<html lang="en">' in source


def test_ids_are_unique_and_references_find_theirs(folder, page):
    """Each SVG numbers its clip paths and markers from one: on a page they would take each other's."""
    ids = page.values("id")
    assert len(ids) == len(set(ids))
    source = (folder / "report.html").read_text("utf-8")
    assert {*page.values("href"), *re.findall(r"url\(([^)]*)", source)} <= {f"#{name}" for name in ids}
    assert set(page.values("aria-labelledby")) <= set(ids)


def test_figures_are_labelled_and_keep_text_as_text(folder):
    """Names of any script are the browser's to draw; none is mathematics."""
    drawings = re.findall(r"<svg.*?</svg>", (folder / "report.html").read_text("utf-8"), re.DOTALL)
    assert len(drawings) == 5 + 5
    roots = [ElementTree.fromstring(drawing) for drawing in drawings]
    assert all(root.get("role") == "img" and root.get("aria-label") for root in roots)
    texts = {text.text for root in roots for text in root.iter("{http://www.w3.org/2000/svg}text")}
    assert {*HOSTILE[:5], "two lines & [a](b)", TEACHER, "not adapted"} <= texts


def test_names_are_shown_and_never_obeyed(page):
    """A scene's name comes from a user's file."""
    assert [row[0] for row in page.table("scene")].count(HOSTILE[0]) == 1
    assert set(HOSTILE) <= {row[0] for row in page.table("scene")}
    assert "b" not in page.tags
    assert "ValueError: $x$ | <b>" in page.text


def test_systems_are_listed_by_falling_recall_with_all_their_figures(found, page):
    systems = found["evaluation"]["systems"]
    order = sorted(systems, key=lambda name: -systems[name]["recall"]["mean"])
    quality = page.table("system", "recall@10", "over support popularity")
    reach = page.table("system", "recall of new items")
    assert [row[0] for row in quality] == [row[0] for row in reach] == order
    for row, more in zip(quality, reach, strict=True):
        name, figures = row[0], systems[row[0]]
        over = "" if name == "support popularity" else shown(figures["over_reference"], "{:+.3f}")
        keys = ("ndcg", "mrr", "hit_rate", "precision", "accuracy")
        assert row[1:] == [shown(figures["recall"]), over, *(shown(figures["metrics"][key]) for key in keys)]
        keys = ("new_item_recall", "cold_user_recall", "coverage", "popularity")
        assert more[1:] == [shown(figures["metrics"][key]) for key in keys]
    for count in ("5,210 queries", "4,100 of the queries", "0 come from users without history"):
        assert count in page.text


def test_tables_by_shots_hold_the_documents_figures(found, page):
    systems = found["evaluation"]["systems"]
    for row in page.table("system", "K = 1"):
        assert row[1:] == [shown(systems[row[0]]["by_shots"][str(k)]) for k in SHOTS]
    expected = [
        [f"{group['grouping']}: {group['group']}", name, *(shown(by_shots[str(k)]) for k in SHOTS)]
        for group in found["evaluation"]["transfer"]
        for name, by_shots in group["systems"].items()
    ]
    assert page.table("group") == expected
    assert "K = 40 is left out: 3 scenes | too few" in page.text


def test_scene_tables_hold_the_documents_figures(found, page):
    systems, facts = found["evaluation"]["systems"], found["evaluation"]["scene_facts"]
    every, worst = (rows[1:] for rows in page.tables if rows[0][0] == "scene")
    for scene, *figures in [*every, *worst]:
        teacher, student, popularity = (
            systems[name]["scene_recalls"][scene] for name in (TEACHER, "student", "support popularity")
        )
        expected = [f"{teacher:.3f}", f"{student:.3f}", f"{student - teacher:+.3f}", f"{popularity:.3f}"]
        fact = facts[scene]
        assert figures == [*expected, str(fact["candidates"]), f"{fact['nearest']:.2f}", str(fact["queries"])]
    assert len(every) == 24
    assert [float(row[1]) for row in every] == sorted((float(row[1]) for row in every), reverse=True)
    losses = [float(row[3]) for row in worst]
    assert losses == sorted(losses)
    assert max(losses) < 0
    assert len(losses) == min(10, sum(float(row[3]) < 0 for row in every))


def test_every_pair_is_compared_scene_by_scene(found, page):
    """Row minus column, and the opposite on the other side of the diagonal."""
    systems = found["evaluation"]["systems"]
    rows = page.table("row minus column")
    names = [row[0] for row in rows]
    strong = 0
    for row, one in zip(rows, names, strict=True):
        for cell, other in zip(row[1:], names, strict=True):
            left, right = (np.array(list(systems[name]["scene_recalls"].values())) for name in (one, other))
            order = np.argsort(list(systems[one]["scene_recalls"]))
            difference = bootstrap((left - right)[order])
            strong += one != other and difference.excludes_zero
            assert cell == ("" if one == other else shown(vars(difference), "{:+.3f}"))
    assert page.values("class").count("strong") == strong


def test_trials_teachers_inference_and_protocol_are_the_documents(found, page):
    history = found["search"]["history"]
    rows = page.table("trial", "validation recall@10", "cost")
    assert [row[0] for row in rows] == [str(trial["trial"]) for trial in history]
    for row, trial in zip(rows, history, strict=True):
        recall = trial["recall"] or (trial["rungs"][-1]["recall"] if trial["rungs"] else None)
        assert row[1] == ("–" if recall is None else f"{recall:.4f}")
        assert row[3:6] == [trial["state"], trial["reason"], "anil"]
        assert row[6] == f"outer_lr = {trial['params']['outer_lr']:.4g}, inner_steps = 3"
    assert page.table("trial", "validation recall@10", "parameters") == [
        ["9", "0.3912", "learner = anil, outer_lr = 0.001"]
    ]
    assert page.table("", "parameters") == [
        ["teacher", "22.6 M", "91 MB", "497"],
        ["student", "17.3 M", "69 MB", "964"],
        ["student / teacher", "0.77×", "0.76×", "1.94×"],
    ]
    assert dict(page.table("setting"))["split"] == "0.5, 0.2, 0.3"
    for fact in (
        "95.7%",
        "86% [78%, 94%] of its lift",
        "pruning saved 67%",
        "What matters: learner 75%, outer_lr 25%.",
        "ab12" * 16,
        "hpo evaluate exports/quickstart",
    ):
        assert fact in page.text


def test_students_are_shown_with_their_front_and_the_one_chosen(page, folder):
    """Which student the export holds, and what a smaller one would have kept, is what the section is for."""
    text = folder.joinpath("report.md").read_text()
    assert "4 students were distilled, of which 1 stopped early. Trial 1 was chosen: 0.15× the parameters" in text
    assert "They started without the relative positions of its attention, which DistilBERT does not have." in text
    assert "97.4% of the best teacher" in text
    assert "95.7% [94.7%, 96.7%] of the best teacher" in text
    for figure in ("0.3840", "0.33×", "0.17×", "on the front", "chosen", "pruned"):
        assert figure in text
    assert 'id="front-' in folder.joinpath("report.html").read_text()


def test_a_few_lists_are_shown_with_the_terms_that_put_items_on_them(found, page):
    """A reader must find what brought an item, with its sign; long texts are cut, and all of them are only shown."""
    lists = [caption for caption in page.captions if ": the first 2 of 1,212 items" in caption]
    assert lists == [f"{scene}: the first 2 of 1,212 items" for scene in HOSTILE[:3]]
    first, second = page.table("item", "score", "taken")
    assert first == ["whole milk", "1.250", "yes", "support counts +1.25 (itself +1.25)"]
    own, words, *rest = second[3].split("; ")
    assert (second[:3], own) == (["skim milk", "1.438", "no"], "support counts +1.25 (whole milk +1.25)")
    brought = "a|b <i>milk</i> a|b <i>milk</i> a|b <i>milk</i> a… +0.50 [milk, <b>, a|b], *oat* drink -0.25"
    assert words == f"support words +0.25 ({brought})"
    assert rest == ["appeal -0.12", "1 other +0.06"]
    assert "corn flakes ×2; " in page.text
    assert "two lines & [a](b); 0; 4 more" in page.text
    assert "3 items, 1 of them below" in page.text
    assert "the support took this very item" in page.text
    assert MEANINGS["adapted bias"] not in page.text  # no table shows it


def test_every_term_of_a_score_has_a_meaning():
    """A report with a word that nothing explains would be a riddle."""
    assert set(MEANINGS) >= {*USER_TERMS, *CANDIDATE_TERMS, "scene preference", "adapted bias"}
    named = (ROOT / "studies/model/explanation.py").read_text("utf-8")
    assert all(f'"{name}"' in named or name in CANDIDATE_TERMS for name in MEANINGS)


def test_without_explained_answers_there_is_no_such_section(found):
    """Exports of earlier versions stored none, and of known classes there are none."""
    for explanations in (None, {"lists": [], "episodes": []}):
        assert reasons(StudyDocument.model_validate(found | {"explanations": explanations})) is None


def test_markdown_has_the_same_tables(folder, page):
    """Same cells, and in each table as many of them in every row."""
    tables = list(markdown_tables((folder / "report.md").read_text("utf-8")))
    assert all(len(row) == len(rows[0]) for rows in tables for row in rows)
    as_text = [[[" ".join(cell.split()) for cell in row] for row in rows] for rows in page.tables]
    assert [[rows[0], *rows[2:]] for rows in tables] == as_text


@pytest.mark.parametrize(
    ("name", "escaped"),
    [
        ("a|b", r"a\|b"),
        ("<script>", r"\<script\>"),
        ("two\nlines", "two lines"),
        ("[a](http://b)", r"[a\](http://b)"),
        ("*_`$#~&\\", r"\*\_\`\$\#\~\&\\"),
        ("0.5 [0.4, 0.6]", "0.5 [0.4, 0.6]"),
        ("# a heading", r"\# a heading"),
        ("#12 is a trial", "#12 is a trial"),
        ("牛肉", "牛肉"),
    ],
)
def test_markdown_escapes_what_would_start_a_construct(name, escaped):
    assert markdown.escape(name) == escaped


@given(st.one_of(st.text(), st.text("` a|\n\x1b\\<", max_size=8)))
def test_no_text_ends_what_it_is_shown_in(text):
    """A study may be called like the end of a code span, and a scene like a command to the terminal."""
    shown = visible(re.sub(r"\s", " ", text))
    [inline] = [token for token in MarkdownIt().parse(f"of {markdown_code(text)}.") if token.type == "inline"]
    spans = [token.content for token in inline.children if token.type == "code_inline"]
    assert [span.strip() for span in spans] == [shown.strip()] * bool(text)
    [inline] = [token for token in MarkdownIt("js-default").parse(f"of {markdown_text(text)}.") if token.children]
    assert {token.type for token in inline.children} <= {"text", "text_special"}
    shown = visible(re.sub(r"\s+", " ", text))
    assert "".join(token.content for token in inline.children) == f"of {shown}."
    assert json.loads(visible(json.dumps(text, ensure_ascii=False))) == text


def test_control_characters_are_shown_by_every_renderer_and_obeyed_by_none(capsys):
    """A scene's name or an item's text is a stranger's: a terminal would take it for a command."""
    hostile = "\x1b[2Jmilk\x9b31m\u202e"
    table = Table(hostile, ["scene", hostile], [[hostile, Cell("0.5")]])
    print_blocks([Text((hostile, Code(hostile))), table], Console())
    Console().note(hostile)
    streams = capsys.readouterr()
    page = render(Report(hostile, "now", [hostile], hostile, [Section("a", hostile, [table, Commands([hostile])])]))
    note = markdown.render(Report(hostile, "now", [], hostile, [Section("a", hostile, [table, Commands([hostile])])]))
    for shown in (streams.out, streams.err, page, note):
        assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", shown)
        assert re.search(r"u001b\\?\[2Jmilk\\?\\u009b31m\\?\\u202e", shown)


def test_links_and_code_are_shown_by_every_renderer(capsys):
    """The note has both; a report that has one some day must not show a tuple of Python's."""
    words = ("of ", Link("#9 <b>", "/trials/9"), ": ", Code("/a/b|c"), ".")
    section = Section("files", "Files", [Text(words), Items([words])])
    page = render(Report("Title", "now", [], "measured", [section]))
    assert page.count('of <a href="/trials/9">#9 &lt;b&gt;</a>: <code>/a/b|c</code>.') == 2
    assert markdown.render_sections([section], 3) == [
        "### Files",
        r"of [#9 \<b\>](/trials/9): `/a/b|c`.",
        r"- of [#9 \<b\>](/trials/9): `/a/b|c`.",
    ]
    print_blocks([Text(words)], Console())
    assert capsys.readouterr().out == "of #9 <b>: /a/b|c.\n"


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [
        (0.01, 0.09, "beats support"),
        (-0.09, -0.01, "loses to support"),
        (-0.01, 0.05, "within the noise of each other"),
    ],
)
def test_the_verdict_follows_the_interval(low, high, words, tmp_path):
    found = document(scenes=3)
    over = {"mean": (low + high) / 2, "low": low, "high": high}
    found["evaluation"]["systems"][TEACHER]["over_reference"] = over
    assert words in pages(found, tmp_path)[1].split("## ")[0]


@pytest.mark.parametrize(
    ("gains", "words"),
    [
        ((0.0, 0.0, 0.0, 0.0), "no clear gain at any K up to 20."),
        ((0.0, 0.2, 0.2, 0.2), "pays from K = 5 on (+0.200 [+0.150, +0.250] at K = 5)."),
        ((0.0, 0.2, 0.0, 0.2), "pays at K = 5, 20 and not clearly elsewhere ("),
        ((-0.2, 0.0, 0.0, 0.2), "at K = 20); it harms at K = 1."),
        ((0.04, 0.04, 0.04, 0.04), "no clear gain"),  # better, but within the noise
    ],
)
def test_adapting_pays_only_where_the_interval_of_its_gain_lies_above_zero(gains, words, tmp_path):
    found = document(scenes=3)
    group = found["evaluation"]["transfer"][0]
    group["gains"] = {TEACHER: {str(k): interval(gain) for k, gain in zip(SHOTS, gains, strict=True)}}
    found["evaluation"]["transfer"] = [group]
    assert words in next(line for line in pages(found, tmp_path)[1].splitlines() if line.startswith("- By catalogue"))


def test_fine_tuning_is_judged_beside_adapting(tmp_path):
    """The fine-tuning baseline has a sentence and a line of its own."""
    found = document(scenes=3)
    evaluation = found["evaluation"]
    name = "<i>fine|tuned</i> $z$"
    evaluation["systems"][name] = evaluation["systems"][TEACHER] | {"kind": "fine-tuning"}
    for group in evaluation["transfer"]:
        group["systems"][name] = {str(k): interval(0.9) for k in SHOTS}
        group["gains"][name] = {str(k): interval(0.3) for k in SHOTS}
    page, text = pages(found, tmp_path)
    assert page.text.count(f"{name} pays from K = 1 on") == 5
    assert name in [row[0] for row in page.table("row minus column")]
    assert "i" not in page.tags
    assert all(len(row) == len(rows[0]) for rows in markdown_tables(text) for row in rows)


ADAPTATION = {
    "encoder": "minilm",
    "sha256": "53aa" * 16,
    "objectives": ["mlm", "cooccurrence"],
    "steps": 300,
    "texts": 8580,
    "interactions": 540_364,
    "labelled": 0,
    "losses": {"mlm": [7.25, 3.5], "cooccurrence": [2.5, 2.25]},
    "seconds": 150.0,
}


def test_what_an_encoder_was_adapted_on_is_printed_with_what_it_changed(capsys):
    """The gain is paired, and what was compared is a baseline that the task has."""
    result = AdaptResult(
        study="tea", task="ranking", metric="recall@10", adaptation=ADAPTATION, sha256="ab12" * 16,
        baseline=STAGES["ranking"].frozen, before=Interval(0.25, 0.2, 0.3), after=Interval(0.3, 0.25, 0.35),
        gain=Interval(0.05, 0.02, 0.08), folder="/there",
    )  # fmt: skip
    print_blocks(adapt_outcome(result), Console())
    lines = " ".join(capsys.readouterr().out.split())
    assert "cooccurrence 2.500 2.250" in lines
    assert "300 steps in 2 min 30 s." in lines
    assert "'zero-shot encoder': 0.250 [0.200, 0.300] before, 0.300 [0.250, 0.350] after, +0.050" in lines
    assert "encoder: /there" in lines
    assert STAGES["classification"].frozen == FROZEN_CENTROIDS


def test_baselines_alone_make_a_page(tmp_path):
    """`hpo baselines` has no teacher, no student and no search."""
    found = document(baselines_only=True)
    found["evaluation"]["adaptation"] = ADAPTATION
    page, text = pages(found, tmp_path)
    titles = re.findall("^## (.*)", text, re.MULTILINE)
    assert titles == [
        "All systems", "Recall by number of interactions", "Each against each", "Data and protocol",
        "How to reproduce this",
    ]  # fmt: skip
    assert "Only baselines were scored: support popularity has the best recall@10, 0." in text
    assert page.tags.count("svg") == 2
    assert "hpo baselines STUDY.toml" in text
    assert "None" not in text
    trained = (
        "trained on 8,580 texts, 540,364 interactions of the shop before the search: mlm and cooccurrence, 300 steps"
    )
    assert trained in text


@pytest.mark.parametrize(
    ("part", "candidates", "words"),
    [
        ("test", "scene", "that neither training nor the search ever saw, in the log's last period"),
        ("validation", "scene", "3 validation scenes of completejourney, in the validation period"),
        ("test", "all", "every item of the whole catalogue ranked"),
    ],
)
def test_it_says_what_was_measured(part, candidates, words, tmp_path):
    """Figures on validation scenes must not pass for those on test scenes."""
    found = document(scenes=3, baselines_only=True)
    found["evaluation"]["part"] = part
    found["protocol"] = found["protocol"] | {"candidates": candidates}
    head = pages(found, tmp_path)[1].split("## ")[0]
    assert words in head
    assert ("ever saw" in head) == (part == "test")


@pytest.mark.parametrize(
    ("default", "first", "unfinished", "said"),
    [
        (0.03, 0.02, "", ("best trial beats the default configuration, the middle of the search space (trial 0): +0.03",
                          "It beats the best of the first 5 trials (trial 3): +0.020")),
        (0.005, -0.02, "", ("are within the noise of each other: +0.005", "It loses to the best of the first 5")),
        (0.03, None, "", ("(trial 0): +0.030 [+0.020, +0.040]", "It is one of the first 5 trials.")),
        ("best", None, "", ("is the default configuration, the middle of the search space: searching found nothing",)),
        (None, None, "trial 0 failed: out of memory", ("is not known: trial 0 failed: out of memory.",)),
    ],
)  # fmt: skip
def test_a_report_says_what_searching_was_worth(default, first, unfinished, said):
    """Also where it was worth nothing, and where the default configuration did not finish."""
    found = document(scenes=8)

    def compared(trial, gain):
        return {"trial": trial, "system": "any", "gain": None if gain is None else interval(gain, 0.01)}

    best = default == "best"
    gain = {"default": None if default is None else compared(9 if best else 0, None if best else default)}
    gain |= {"first": compared(9 if first is None else 3, first), "unfinished": unfinished, "first_trials": 5}
    found["evaluation"]["search_gain"] = gain
    sentences = " ".join(verdicts(Results(StudyDocument.model_validate(found).evaluation)))
    for words in said:
        assert words in sentences


def test_one_scene_decides_nothing(tmp_path):
    """The bootstrap of one scene is a point, which excludes zero whatever it is."""
    found = document(scenes=1)
    found["evaluation"]["systems"][TEACHER]["over_reference"] = interval(0.2, 0)
    page, text = pages(found, tmp_path)
    assert text.count("cannot be told from") == 3
    assert "beats" not in text
    assert not any(rows[0][0] == "row minus column" for rows in page.tables)
    assert "1 scene " in text


def test_what_is_not_defined_is_a_dash_and_null(tmp_path):
    """NaN is not JSON, and a browser's parser refuses the whole file."""
    found = document(scenes=4)
    evaluation = found["evaluation"]
    for figures in evaluation["systems"].values():
        figures["metrics"]["mrr"] = None
        figures["by_shots"] = {"20": None}
        figures["scene_recalls"]["a|b"] = math.nan
    evaluation["inference"]["student"]["items_per_second"] = math.nan
    evaluation["retention"] |= {"lift": None, "teacher_lift": interval(0.004, 0.018)}
    evaluation["scene_facts"] = {}
    found["search"]["history"] = [trial | {"recall": None, "rungs": []} for trial in found["search"]["history"]]
    page, text = pages(found, tmp_path)
    assert "nan" not in re.findall(r"\w+", text.casefold())
    systems = page.table("system", "recall@10")
    assert {row[4] for row in systems} == {"–"}
    assert len(page.table("scene")) == 3
    assert [row[3] for row in page.table("", "parameters")] == ["497", "–", "–"]
    assert "Recall by number of interactions" not in text
    assert "support popularity is not distinguishable from zero: +0.004 [-0.014, +0.022]" in text
    stored = json.loads((tmp_path / "report.json").read_text("utf-8"), parse_constant=pytest.fail)
    assert stored["evaluation"]["systems"]["student"]["metrics"]["mrr"] is None
    assert stored["evaluation"]["systems"]["student"]["scene_recalls"]["a|b"] is None


def test_a_classification_is_reported_class_by_class_in_its_own_words(tmp_path):
    """A mean over classes hides the one that is always taken for another; and nobody ranked anything."""
    found = as_classification(document(scenes=4), HOSTILE)
    page, text = pages(found, tmp_path)
    worst = page.table("class", "queries")[0]
    assert worst == [HOSTILE[0], "50", "0.500", "0.500", "0.500", "+0.000"]
    assert [row[0] for row in page.table("class", "queries")] == list(HOSTILE)
    assert page.table("class", "predicted as") == [[*HOSTILE[:2], "15", "30%"]]
    reliance = {row[0]: row[1:] for row in page.table("system", "calibration error")}
    assert reliance["student"] == ["0.032", "62%", "41%"]
    assert "the same student trained on the labels alone" in text
    assert "the same student before its training" in text
    assert "4 episodes of completejourney, with classes that neither" in text
    assert "labelled texts of each class in the support (K)" in (tmp_path / "report.html").read_text("utf-8")
    rows = page.table("text", "label", "probability")
    assert rows[0] == ["skim milk", HOSTILE[0], "0.62", HOSTILE[0], f"{HOSTILE[0]} ({HOSTILE[0]}, 0.88)"]
    assert rows[1][:4] == [HOSTILE[0], HOSTILE[0], "0.62", HOSTILE[1]]
    assert page.captions.count("episode 3: 6 classes, 12 labelled texts to adapt to") == 1
    assert not re.findall(r"ROC-AUC|(?i:scene\b|scenes|interaction|recall@|catalogue)", text)


def test_of_many_scenes_the_ends_are_drawn_and_all_are_listed(tmp_path):
    page, text = pages(document(scenes=70), tmp_path)
    assert "Of 70 scenes, the 30 with the lowest and the 30 with the highest difference" in " ".join(page.captions)
    assert len(page.table("scene")) == 70
    assert "All 70 scenes" not in text
    source = (tmp_path / "report.html").read_text("utf-8")
    assert len(set(re.findall(r'id="scenes-ytick_(\d+)"', source))) == 60


def test_json_is_the_document(found, folder):
    stored = json.loads((folder / "report.json").read_text("utf-8"))
    assert stored == found


def test_an_older_report_is_replaced(tmp_path):
    (tmp_path / "report.md").write_text("old")
    (tmp_path / "notes.txt").write_text("the reader's own")
    files = write(document(scenes=2, baselines_only=True), tmp_path)
    assert [file.name for file in files] == ["report.html", "report.md", "report.json"]
    assert {file.name for file in tmp_path.iterdir()} == {"report.html", "report.md", "report.json", "notes.txt"}
    assert (tmp_path / "report.md").read_text("utf-8").startswith("# quickstart")


def test_equal_documents_give_equal_pages_whatever_matplotlib_is_set_to(tmp_path):
    """A report under version control should change only when its figures do; and it changes no settings of others."""
    import matplotlib

    found = document(scenes=3)
    before = copy.deepcopy(found)
    first = [file.read_bytes() for file in write(found, tmp_path / "first")]
    with matplotlib.rc_context({"font.size": 20, "text.parse_math": True, "svg.fonttype": "path"}):
        second = [file.read_bytes() for file in write(found, tmp_path / "second")]
        assert matplotlib.rcParams["font.size"] == 20
    assert first == second
    assert found == before


def test_nothing_heavy_is_imported_before_there_is_something_to_draw():
    code = "import sys, hpo.reporting.renderers.page; print({'matplotlib', 'torch', 'optuna'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize(
    ("name", "short"),
    [
        ("milk", "milk"),
        ("a very long name", "a very lo…"),
        ("牛肉" * 3, "牛肉牛肉…"),
        ("two\nlines\0", "two lines"),
        ("", ""),
    ],
)
def test_names_in_figures_fit_on_one_line(name, short):
    assert shorten(name, 10) == short


def test_no_two_styles_differ_by_colour_alone():
    """On paper, and to one reader in twelve, colours are shades."""
    looks = [*STYLES.values(), OTHER]
    assert len({look.marker for look in looks}) == len({look.color for look in looks}) == len(looks)
    assert COMPLETE.marker != STOPPED.marker
