"""Labelled texts: what a source's rows become, which classes a study uses, and what is said of odd labels."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from pydantic import ValidationError

from storage.errors import InputError
from studies.classification.data.class_selection import select_classes
from studies.classification.data.coding import build_labelled
from studies.classification.data.completejourney import LabelledCompleteJourney
from studies.classification.data.dataset import LabelledTexts, keep_classes
from studies.classification.data.files import LabelledFiles
from studies.classification.data.loading import load_labelled, read_labelled
from studies.classification.data.source import LabelledRows
from studies.classification.protocol import ClassificationProtocol
from studies.config.definition import TeacherSection
from studies.model import encoder as encoders
from studies.model.encoder import tokenize
from studies.text_form import join_pair, split_pair
from tests.heard import Heard
from tests.labelled import coded, planted_rows, planted_texts
from tests.synthetic import tiny_encoder

SECTION = LabelledCompleteJourney(source="completejourney")


def rows_of(data: LabelledTexts) -> list[tuple[str, str | None, str | None]]:
    def name(names: tuple[str, ...], code: int) -> str | None:
        return names[code] if code >= 0 else None

    codes = zip(data.text.tolist(), data.label.tolist(), data.group.tolist(), strict=True)
    return [(data.texts[text], name(data.labels, label), name(data.groups, group)) for text, label, group in codes]


def test_rows_become_one_of_each_text_with_its_label_first_group_and_earliest_time() -> None:
    """The order of rows is a contract: every draw of an episode relies on it."""
    frame = pl.DataFrame(
        {
            "text": ["mug", " tea ", "tea", "tea", "kettle", None],
            "label": ["cups", "drinks", None, "drinks", "", "cups"],
            "group": ["g1", "g3", "g2", None, None, "g1"],
            "time": [5, 9, 8, 7, 6, 5],
        }
    )
    data = build_labelled(LabelledRows(frame, 7, {"row of another year": 1}, ("From a test.",)))
    assert rows_of(data) == [("kettle", None, None), ("mug", "cups", "g1"), ("tea", "drinks", "g2")]
    assert data.time.tolist() == [6, 5, 7]
    assert (data.scenes, data.scene.tolist()) == ((), [-1, -1, -1])
    assert (data.rows_read, data.dropped) == (7, {"row of another year": 1, "row without text": 1})
    assert data.notes == ("From a test.", "2 rows repeat the text of another row and were merged with it.")


def test_names_of_classes_are_texts_without_rows_unless_a_row_has_the_same_text() -> None:
    """A model reads them; no support and no query may be one because it is a name."""
    data = coded(("mug", "cups"), ("tea", "tea"), ("kettle", None), ("jug", " mug"))
    assert data.texts == ("cups", "jug", "kettle", "mug", "tea")
    assert [data.texts[code] for code in data.names.tolist()] == list(data.labels) == ["cups", "mug", "tea"]
    assert rows_of(data) == [("jug", "mug", None), ("kettle", None, None), ("mug", "cups", None), ("tea", "tea", None)]
    assert data.size.startswith("4 texts, 3 classes")
    kept = keep_classes(data, np.array([2, 1]), "classes are too small")
    assert [kept.texts[code] for code in kept.names.tolist()] == list(kept.labels) == ["mug", "tea"]


def test_a_text_under_several_labels_is_left_out_counted_and_named() -> None:
    """No answer to it would be right, and in two splits it would be a leak."""
    data = coded(("tea", "drinks"), ("tea", "plants"), ("mug", "cups"), ("tea", None), ("mug", "cups"))
    assert rows_of(data) == [("mug", "cups", None)]
    assert data.dropped == {"text under several labels": 3}
    assert data.notes[0] == ('1 text has several labels and is left out, such as "tea" under "drinks" and "plants".')


def test_a_text_has_a_row_in_each_of_its_scenes() -> None:
    """A department's categories are told apart within the department."""
    data = coded(("mug", "cups"), ("mug", None), ("tea", "drinks"), scene=["west", "east", None])
    assert data.scenes == ("east", "west")
    assert list(zip(data.label.tolist(), data.scene.tolist(), strict=True)) == [(0, 0), (0, 1)]
    assert data.dropped == {"row without a scene": 1}


def test_labels_that_differ_by_case_or_spaces_and_labels_that_are_measures_are_said() -> None:
    """Each is a fault that no figure would show: two classes that are one, or a regression taken for classes."""
    odd = coded(("a", "Tea"), ("b", "tea"), ("c", "hot  tea"), ("d", "hot tea"), ("e", "mug"))
    assert odd.warnings[0].startswith("2 classes differ from another by letter case or spaces only")
    assert '("Tea" and "tea")' in odd.warnings[0] or '("hot  tea" and "hot tea")' in odd.warnings[0]
    (warning,) = coded(("a", "0.37"), ("b", "1.25"), ("c", "2"), ("d", "3,5")).warnings
    assert warning.startswith('3 of 4 labels are numbers with a fraction, such as "0.37"')
    assert coded(("a", "1"), ("b", "2.0"), ("c", "mug 0.5 l")).warnings == ()


def test_the_fingerprint_tells_data_apart_and_equal_data_alike() -> None:
    """It is what says that a resumed study runs on the same data."""
    one, again = planted_texts(), build_labelled(LabelledRows(planted_rows().rows.reverse(), 1))
    assert one.fingerprint == again.fingerprint != planted_texts(seed=1).fingerprint
    relabelled = planted_rows().rows.with_columns(pl.col("label").str.to_uppercase())
    assert build_labelled(LabelledRows(relabelled, 1)).fingerprint != one.fingerprint


class Kept(LabelledCompleteJourney):
    """A source that counts how often it is read."""

    path: Path

    def files(self) -> list[Path]:
        """The one file."""
        return [self.path]

    def read(self) -> LabelledRows:
        """The planted rows."""
        reads.append(self.path)
        return planted_rows(classes=4)


reads: list[Path] = []


def test_what_was_read_is_cached_whole(tmp_path: Path) -> None:
    """A cache that lost a column, or took one task's data for another's, would change a study at its second launch."""
    path = tmp_path / "rows.csv"
    path.write_text("x")
    first = read_labelled(Kept(source="completejourney", path=path), tmp_path)
    again = read_labelled(Kept(source="completejourney", path=path, max_classes=2), tmp_path)
    assert reads == [path]
    for name, value in vars(first).items():
        assert type(value) is type(vars(again)[name]), name
        assert np.array_equal(value, vars(again)[name]) if isinstance(value, np.ndarray) else value == vars(again)[name]


def test_a_study_says_what_is_probably_wrong_with_its_labels(tmp_path: Path) -> None:
    """Who starts a search without the check must still hear of it."""
    path = tmp_path / "rows.csv"
    path.write_text("text,label\n" + "".join(f"{c} {n},{c}\n" for c in ("Tea", "tea") for n in range(12)))
    section = LabelledFiles.model_validate({"source": "files", "rows": str(path), "text": "text"})
    heard = Heard()
    load_labelled(section, ClassificationProtocol(), tmp_path / "cache", heard)
    assert [note.split(" differ")[0] for note in heard.notes] == ["warning: 1 class"]


def test_small_classes_are_used_as_unlabelled_texts() -> None:
    """Their texts still teach a student the words of the shop."""
    data = coded(*[(f"tea {n}", "tea") for n in range(6)], *[(f"mug {n}", "mug") for n in range(3)], ("x", None))
    study = select_classes(data, SECTION, ClassificationProtocol(shots=2, queries=3))
    assert study.labels == ("tea",)
    assert (study.label < 0).sum() == 4
    assert study.texts == data.texts
    assert study.notes[-1].startswith(
        "1 of 2 classes too small (shots = 2, queries = 3, min_groups = 2); used as unlabelled texts: 3"
    )
    assert study.fingerprint != data.fingerprint


def test_max_classes_takes_a_sample_that_stays_when_classes_are_added() -> None:
    """Otherwise a new class in the shop would make old test classes training classes."""
    protocol, few = ClassificationProtocol(), SECTION.model_copy(update={"max_classes": 6})
    sample = select_classes(planted_texts(), few, protocol).labels
    more = select_classes(planted_texts(classes=31), few, protocol).labels
    assert len(sample) == 6
    assert len(set(sample) & set(more)) >= 5


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (coded(("a", "tea"), ("b", "tea")), r'every labelled text is "tea" in 2 rows: there is nothing to tell apart'),
        (coded(("a", None)), r"no text has a label in 1 rows.*name the column of the classes in data\.label"),
        (
            coded(*[(f"{label} {n}", label) for label in "ab" for n in range(4)]),
            r"none of the 2 classes is as large as \[protocol\] asks \(shots = 5, queries = 5, min_groups = 2\); the "
            r'largest, "a", has 4 texts: lower protocol\.shots to 3 and protocol\.queries to 1',
        ),
        (
            coded(*[(f"{label} {n}", label) for label in "ab" for n in range(12)], group=[*"g" * 12, *"h" * 12]),
            r"from different groups\); .* has 12 texts in 1 group: name a finer column in data\.group",
        ),
    ],
)
def test_data_without_classes_to_tell_apart_are_refused_with_a_remedy(data: LabelledTexts, message: str) -> None:
    """The search would otherwise end in an index error, or in a recall of one."""
    with pytest.raises(InputError, match=message):
        select_classes(data, SECTION, ClassificationProtocol())


def test_the_remedy_for_small_classes_works() -> None:
    """A remedy that leads to the next error is none."""
    data = coded(*[(f"{label} {n}", label) for label in "ab" for n in range(4)], group=[*"ggxh", *"iiyj"])
    protocol = ClassificationProtocol(min_rows=20, min_groups=4)
    with pytest.raises(InputError, match=r"lower protocol\.shots to 3 and .*queries to 1 and .*min_rows to 4 and "):
        select_classes(data, SECTION, protocol)
    lower = ClassificationProtocol(shots=3, queries=1, min_rows=4, min_groups=3)
    assert select_classes(data, SECTION, lower).labels == ("a", "b")


def test_the_categories_of_complete_journeys_products_are_labels_and_not_words() -> None:
    """A text that names its category would make every figure of the built-in study a figure of copying."""
    found = SECTION.read()
    assert found.rows.columns == ["text", "label", "group"]
    data = build_labelled(found)
    assert data.rows_read == 92_331
    assert len(select_classes(data, SECTION, ClassificationProtocol(min_rows=20, min_groups=3)).labels) == 207
    assert data.dropped.keys() == {"text under several labels"}
    assert all(data.texts[text] == data.texts[text].lower() for text in set(data.text.tolist()))
    first = found.rows.row(0, named=True)
    assert first == {
        "text": "ice - crushed/cubed, national, 22 lb",
        "label": "FRZN ICE",
        "group": "ICE - CRUSHED/CUBED",
    }


PRODUCTS = (
    "title;brand;category;department;supplier;added\n"
    "green tea;Acme;3.0;drinks;007;2020-01-02\nmug;;4.0;home;8;2020-01-03\nbowl;Bolt;;home;8;2020-01-04\n"
    "jar;Bolt;None;home;8;2020-01-04\nkettle;;4.0;;9;2020-01-05\n;;4.0;home;9;2020-01-05\n"
)


@pytest.fixture
def products(tmp_path: Path) -> Callable[..., LabelledFiles]:
    """Writes files into a folder and gives the section that reads them."""

    def write(content: str = PRODUCTS, **keys: Any) -> LabelledFiles:
        (tmp_path / "products.csv").write_text(content)
        (tmp_path / "feed.csv").write_text("brand,title\nCorvo,plate\nAcme,green tea\n")
        given = {"source": "files", "rows": "products.csv", "text": ["title", "brand"], "label": "category"} | keys
        return LabelledFiles.model_validate(given, context={"folder": tmp_path})

    return write


def test_files_of_texts_and_labels_become_rows_with_and_without_labels(products: Callable[..., LabelledFiles]) -> None:
    """An empty label is a text to learn words from, not a class of its own; ids are spelled as in ranking."""
    section = products(unlabelled="feed.csv", scene="department", group="supplier", time="added")
    assert [path.name for path in section.files()] == ["feed.csv", "products.csv"]
    found = section.read()
    data = build_labelled(found)
    assert rows_of(data) == [
        ("bowl, Bolt", None, "8"),
        ("green tea, Acme", "3", "007"),
        ("jar, Bolt", None, "8"),
        ("mug", "4", "8"),
        ("plate, Corvo", None, None),
    ]
    assert [data.scenes[code] if code >= 0 else None for code in data.scene] == ["home", "drinks", "home", "home", None]
    assert data.time[1] == 1577923200
    assert (data.rows_read, data.dropped) == (8, {"row without text": 1, "row without a scene": 1})
    assert data.notes[0] == 'Labels that mean a missing value, such as "None", are read as no label.'
    plain = build_labelled(products(text="{title} by {brand}").read())
    assert "bowl by Bolt" in plain.texts
    assert (plain.scenes, plain.groups, set(plain.time.tolist())) == ((), (), {0})


@pytest.mark.parametrize(
    ("content", "keys", "message"),
    [
        (
            PRODUCTS,
            {"label": "catgory"},
            r'data\.label: .*products\.csv has no column "catgory"; did you mean category\?',
        ),
        (PRODUCTS, {"group": "vendor"}, r'data\.group: .* has no column "vendor"'),
        (PRODUCTS, {"rows": "none.csv"}, r"data\.rows: .*none\.csv does not exist"),
        (
            "title;brand;category\n;;a\n",
            {},
            r"data\.text = \['title', 'brand'\]: empty in every row of .*products\.csv",
        ),
        (PRODUCTS, {"unlabelled": "feed.csv", "text": "supplier"}, r'data\.text: .*feed\.csv has no column "supplier"'),
        (
            PRODUCTS.replace("2020-01-03", "soon"),
            {"time": "added"},
            r"products\.csv row 3 \('soon'\); set data\.time_format",
        ),
    ],
)
def test_files_that_are_not_as_the_keys_say_are_refused_with_place_and_remedy(
    products: Callable[..., LabelledFiles], content: str, keys: dict[str, Any], message: str
) -> None:
    """The user has the file open; the message must say where to look."""
    with pytest.raises(InputError, match=message):
        products(content, **keys).read()


def test_unusable_rows_are_left_out_and_counted_where_the_study_file_says_so(
    products: Callable[..., LabelledFiles],
) -> None:
    """A feed with one bad date must not stop a study that can do without the row."""
    found = products(PRODUCTS.replace("2020-01-03", "soon"), time="added", invalid="drop").read()
    assert (found.rows_read, sum(found.dropped.values()), len(found.rows)) == (6, 1, 5)


def test_a_text_that_holds_the_label_is_refused(products: Callable[..., LabelledFiles]) -> None:
    """Every figure would be one of copying."""
    with pytest.raises(ValidationError, match='text holds "category", the column of the label: every answer would be'):
        products(text="{title}, {category}")


def test_a_pair_of_texts_is_one_text_that_a_tokenizer_reads_as_two(tmp_path: Path) -> None:
    """A query and an item: the same item under another query is another text."""
    frame = pl.DataFrame(
        {
            "query": ["red lamp", "lamp", "red lamp", "chair", None],
            "title": ["Kitchen  Lamp", "Kitchen  Lamp", "attic chair", " ", "lamp"],
            "label": ["yes", "yes", "no", "no", "no"],
        }
    )
    frame.write_csv(tmp_path / "rows.csv")
    keys = {"source": "files", "rows": [str(tmp_path / "rows.csv")], "text": "query", "text_pair": "title"}
    data = build_labelled(LabelledFiles(**keys).read())
    texts = [data.texts[text] for text in data.text.tolist()]
    assert [split_pair(text) for text in texts] == [
        ("lamp", "Kitchen  Lamp"),
        ("red lamp", "Kitchen  Lamp"),
        ("red lamp", "attic chair"),
    ]
    assert data.dropped == {"row without text": 2}
    tokenizer = encoders.load(TeacherSection(encoder=str(tiny_encoder(tmp_path / "bert")), max_tokens=12)).tokenizer
    found = tokenize(tokenizer, [texts[2], "red lamp", join_pair("red lamp " * 20, "attic chair")], 12)
    pair, single, cut = (row.tolist() for row in torch.tensor_split(found.values, found.offsets[1:-1]))
    assert pair == tokenizer("red lamp", "attic chair")["input_ids"]
    assert single == tokenizer("red lamp")["input_ids"]
    # Of a long text and a short one, the long one is cut.
    assert len(cut) == 12
    assert cut[-len(pair[3:]) :] == pair[3:]
    with pytest.raises(ValidationError, match="the column of the label"):
        LabelledFiles(**keys | {"text_pair": "label"})
