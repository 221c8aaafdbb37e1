"""Shops as odd as people's files are: each is read as what it is, or the check says what is wrong and nothing worse."""

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl
import pytest

from hpo.data_check.check import check
from storage.errors import InputError
from studies.config.spec import StudySpec, parse_spec
from studies.data.dataset import Dataset
from studies.data.loading import load_data, read_source
from studies.episodes.split import split_scenes
from tests.heard import Heard
from tests.synthetic import planted_dataset

PROTOCOL = {"k": 5, "shots": 3, "report_shots": [1, 3], "split": [0.5, 0.25, 0.25], "queries": 8}
MINIMA = {"min_interactions": 50, "min_users": 10, "min_items": 8}
ENGLISH = ("red", "blue", "green", "black", "white", "yellow", "small", "medium", "large")
CHINESE = dict(zip(ENGLISH, ["红色", "蓝色", "绿色", "黑色", "白色", "黄色", "小号", "中号", "大号"], strict=True))
KANA = ["レッド", "ブルー", "緑色", "ブラック", "白い", "黄色", "小さい", "中くらい", "大きい"]
CYRILLIC = ["красный", "синий", "зелёный", "чёрный", "белый", "жёлтый", "малый", "средний", "большой"]
JAPANESE, RUSSIAN = (dict(zip(ENGLISH, words, strict=True)) for words in (KANA, CYRILLIC))


class Shop(NamedTuple):
    """A shop's log and catalogue, before they are written in some odd way."""

    log: pl.DataFrame
    items: pl.DataFrame


@pytest.fixture(scope="module")
def shop() -> Shop:
    """A planted shop with a price in every row: half of the rows cost 1,000 or more."""
    data = planted_dataset(users=30, per_user=60)
    prices = [round(16.11 + 137.25 * (row % 16), 2) for row in range(len(data.time))]
    log = pl.DataFrame(
        {
            "user_id": [f"u{data.user_ids[code]}" for code in data.user],
            "item_id": [1000 + int(data.item_ids[code]) for code in data.item],
            "timestamp": data.time,
            "price": prices,
        }
    )
    scene = [data.scenes[code] for code in range(len(data.scenes)) for _ in data.items_of(code)]
    items = pl.DataFrame(
        {
            "item_id": [1000 + int(data.item_ids[code]) for code in data.catalogue],
            "category": scene,
            "title": [data.texts[code] for code in data.catalogue],
        }
    )
    return Shop(log, items)


def written(shop: Shop, **columns: Any) -> Shop:
    """The shop with columns of the log as text; functions are applied to each value."""
    changed = [
        pl.Series(name, [form(value) for value in shop.log[name]] if callable(form) else form)
        for name, form in columns.items()
    ]
    return shop._replace(log=shop.log.with_columns(changed))


def study(folder: Path, shop: Shop, delimiter: str = ",", encoding: str = "utf-8", **keys: Any) -> StudySpec:
    """A study of a shop that is written with a delimiter and in an encoding."""
    for name, frame in (("log.csv", shop.log), ("items.csv", shop.items)):
        text = frame.write_csv(separator=delimiter)
        (folder / name).write_bytes(text.encode(encoding))
    data = {"source": "files", "interactions": "log.csv", "items": "items.csv", "scene": "category", "text": "title"}
    return parse_spec({"name": "odd", "data": data | MINIMA | keys, "protocol": PROTOCOL}, folder=folder)


def read(folder: Path, shop: Shop, **keys: Any) -> Dataset:
    """The same shop as it is read, of which the check shows rows, notes and warnings."""
    return read_source(study(folder, shop, **keys).data, folder / "cache")


def grouped(thousands: str, decimal: str) -> Callable[[float], str]:
    """Writes 1541.92 as 1.541,92 or the like."""
    return lambda value: f"{value:,.2f}".replace(",", "#").replace(".", decimal).replace("#", thousands)


EXPENSIVE = {"positive": {"column": "price", "at_least": 1000}}
# How prices and the file may be written, without being another shop.
PRICES: dict[str, tuple[Callable[[float], str], dict[str, str]]] = {
    "decimal commas": (lambda value: f"{value:.2f}".replace(".", ","), {"delimiter": ";"}),
    "commas, quoted": (lambda value: f"{value:.2f}".replace(".", ","), {}),
    "German thousands": (grouped(".", ","), {"delimiter": ";", "encoding": "cp1252"}),
    "English thousands": (grouped(",", "."), {}),
    "Swiss thousands": (grouped("’", "."), {"delimiter": ";"}),
    "French Excel, as Unicode text": (grouped("\u202f", ","), {"delimiter": "\t", "encoding": "utf-16"}),
    "points and commas side by side": (lambda value: grouped(".", ",")(value) if value < 500 else str(value), {}),
}


@pytest.mark.parametrize(("form", "keys"), PRICES.values(), ids=PRICES)
def test_prices_with_commas_and_signs_between_thousands_are_prices(
    shop: Shop, tmp_path: Path, form: Callable[[float], str], keys: dict[str, Any]
) -> None:
    """Called no numbers, all rows of most of Europe's shops would be dropped on advice."""
    plain = read(tmp_path, shop, **EXPENSIVE)
    assert 0 < plain.dropped["price missing or below 1000"] < plain.rows_read
    odd = read(tmp_path, written(shop, price=form), **keys, **EXPENSIVE)
    assert (odd.fingerprint, odd.dropped) == (plain.fingerprint, plain.dropped)
    assert not any("price" in line for line in (*odd.notes, *odd.warnings))


def test_prices_of_which_nothing_tells_the_decimal_sign_are_told_of(shop: Shop, tmp_path: Path) -> None:
    """1,541 alone is 1541 to one half of the world and 1.541 to the other."""
    odd = written(shop, price=lambda value: f"{1000 + int(value):,}")
    found = read(tmp_path, odd, **EXPENSIVE)
    assert found.dropped == {}
    assert any(
        'Values of "price" such as 1,016 were read as 1016' in line and 'data.decimal = ","' in line
        for line in found.warnings
    )
    with pytest.raises(InputError, match="price missing or below 1000 in every row"):
        read(tmp_path, odd, decimal=",", **EXPENSIVE)
    # Where thousands are not grouped elsewhere in the column, the sign is a decimal one.
    kilos = read(tmp_path, written(shop, price=lambda value: "5000" if value < 100 else "1,541"), **EXPENSIVE)
    assert kilos.dropped["price missing or below 1000"] > 1000
    assert not any("price" in line for line in kilos.warnings)
    # Numbers of a type are never taken for text.
    (tmp_path / "parquet").mkdir()
    shop.log.with_columns(price=1.541).write_parquet(tmp_path / "parquet" / "log.parquet")
    with pytest.raises(InputError, match="price missing or below 1000 in every row"):
        read(tmp_path, shop, interactions="parquet/log.parquet", decimal=",", **EXPENSIVE)


def test_ids_and_times_that_a_spreadsheet_has_written_are_what_they_were(shop: Shop, tmp_path: Path) -> None:
    """Joined as they stand, a log with 1.017 and a catalogue with 1017 have no product in common."""
    plain = read(tmp_path, shop)
    odd = written(
        shop,
        item_id=lambda value: f"{value:,}".replace(",", "."),
        timestamp=lambda value: f"{value},0",
    )
    found = read(tmp_path, odd, delimiter=";")
    assert found.fingerprint == plain.fingerprint
    assert "Ids of items were compared without regard to signs between thousands." in found.notes


@pytest.mark.parametrize(
    ("encoding", "words", "named"),
    [
        ("gb18030", CHINESE, "gb18030"),
        ("shift_jis", JAPANESE, "cp932"),
        ("cp1251", RUSSIAN, "cp1251"),
        ("koi8-r", RUSSIAN, "koi8_r"),
    ],
)
def test_titles_in_an_encoding_of_their_country_are_read_and_told_of(
    shop: Shop, tmp_path: Path, encoding: str, words: dict[str, str], named: str
) -> None:
    """Read as cp1252 they are other letters throughout, which no encoder knows."""
    items = shop.items.with_columns(pl.col("title").str.replace_many(words))
    plain = read(tmp_path, shop._replace(items=items))
    found = read(tmp_path, shop._replace(items=items), encoding=encoding)
    assert found.fingerprint == plain.fingerprint
    (said,) = [line for line in found.warnings if "items.csv" in line]
    assert f"was read as {named}, such as " in said
    assert items["title"][0] in said


def test_the_text_of_a_large_packed_file_is_not_cut_within_a_character(shop: Shop, tmp_path: Path) -> None:
    """A sample that ends in half of a character is text in no encoding of several bytes."""
    titles = [
        f"{colour}{size}丝绸连衣裙第{row:05}款"
        for row in range(700)
        for colour, size in [("红色", "大号"), ("蓝", "小")]
    ]
    items = pl.DataFrame({"item_id": range(1000, 2400), "category": ["a", "b"] * 700, "title": titles})
    study(tmp_path, shop._replace(items=items), encoding="gb18030")
    (tmp_path / "items.csv.gz").write_bytes(gzip.compress((tmp_path / "items.csv").read_bytes()))
    found = read(tmp_path, shop, items="items.csv.gz")
    assert set(found.texts) <= set(titles)
    assert any("items.csv.gz is not UTF-8 and was read as gb18030" in line for line in found.warnings)


def test_titles_that_fit_two_encodings_show_both_and_too_few_to_tell_are_refused(shop: Shop, tmp_path: Path) -> None:
    """Nobody but the shop knows whether it sells to France or to Slovakia; a guess must be seen."""
    items = shop.items.with_columns(title=pl.concat_str(pl.lit("théière "), "title"))
    found = read(tmp_path, shop._replace(items=items), encoding="cp1252")
    assert any(
        'read as cp1252, such as "théière' in line and 'which cp1250 reads as "théičre' in line
        for line in found.warnings
    )
    german = shop.items.with_columns(title=pl.concat_str(pl.lit("Tässchen für € "), "title"))
    noted = read(tmp_path, shop._replace(items=german), encoding="cp1252")
    assert any('read as cp1252, such as "Tässchen für €' in line for line in noted.notes)
    assert not any("items.csv" in line for line in noted.warnings)
    few = shop.items.with_columns(title=pl.when(pl.int_range(pl.len()) == 3).then(pl.lit("绿茶")).otherwise("title"))
    with pytest.raises(
        InputError, match=r"items\.csv is neither UTF-8 .* nor plausible cp1252; it may read .*\(cp949\)"
    ):
        read(tmp_path, shop._replace(items=few), encoding="gb18030")


def moments(zone: str) -> Callable[[int], str]:
    return lambda value: pl.Series([value]).cast(pl.Datetime("ms")).dt.strftime(f"%Y-%m-%dT%H:%M:%S{zone}")[0]


def test_a_zone_that_only_some_times_name_is_a_warning(shop: Shop, tmp_path: Path) -> None:
    """Half of the log would be hours off, across the openings of scenes, without a word."""
    times = pl.from_epoch(shop.log["timestamp"], time_unit="s").dt.strftime("%Y-%m-%dT%H:%M:%S")
    half = pl.DataFrame(times).select(
        pl.when(pl.int_range(pl.len()) % 2 == 0).then(pl.col("timestamp") + "+00:00").otherwise("timestamp")
    )
    found = read(tmp_path, written(shop, timestamp=half["timestamp"]), timezone="Europe/Berlin")
    (said,) = [line for line in found.warnings if "zone" in line]
    assert said.startswith('"timestamp" mixes times with and without a zone: 900 have one, such as 20')
    assert "900 have none" in said
    assert "were read as Europe/Berlin" in said
    for same in (times, times + "+00:00"):
        assert not any("zone" in line for line in read(tmp_path, written(shop, timestamp=same)).warnings)


@pytest.mark.parametrize(
    ("times", "said"),
    [
        (lambda rows: range(rows), "counts from 0 to 1799 by one, as a row number does"),
        (lambda rows: range(10**9, 10**9 + rows), "counts from 1000000000 to 1000001799 by one, as a row number does"),
        (lambda rows: [row * 7 for row in range(rows)], "are before 1990 as seconds since 1970"),
        (lambda rows: [18_262.5 + row // 5 for row in range(rows)], "may number rows or count days"),
    ],
    ids=["row numbers", "ids of rows", "some of the rows", "a spreadsheet's days"],
)
def test_numbers_that_are_hardly_times_are_a_warning(
    shop: Shop, tmp_path: Path, times: Callable[[int], Any], said: str
) -> None:
    """The order may be right; windows of days, and all that is cut by them, are not."""
    odd = written(shop, timestamp=pl.Series(times(len(shop.log))))
    found = read(tmp_path, odd)
    assert any(said in line and "name the column of the time in data.time" in line for line in found.warnings)
    assert not any("read as seconds" in line for line in found.notes)
    named = read(tmp_path, odd, time_unit="s")
    assert not any(said in line for line in named.warnings)


def test_empty_fields_of_a_template_leave_nothing_behind(shop: Shop, tmp_path: Path) -> None:
    """A frame around nothing is read as text, and makes products without a title look alike."""
    brands = [None if row % 3 else "Acme" for row in range(len(shop.items))]
    found = read(
        tmp_path, shop._replace(items=shop.items.with_columns(brand=pl.Series(brands))), text="{title}, {brand}"
    )
    assert {text.rpartition(", ")[2] for text in found.texts if ", " in text} == {"Acme"}
    assert not any(text.endswith(",") for text in found.texts)


NO_LOG = "A ranking study needs a log of interactions, with a user, an item and a time in every row"


@pytest.mark.parametrize(
    ("dropped", "words"),
    [
        (["user_id"], ['no column "user_id" (data.user)', "correct data.user.", NO_LOG]),
        (["timestamp"], ['no column "timestamp" (data.time)', "correct data.time.", NO_LOG]),
        (
            ["user_id", "item_id", "timestamp"],
            [
                '"user_id" (data.user), "item_id" (data.item), "timestamp" (data.time)',
                NO_LOG,
                'task = "classification"',
            ],
        ),
    ],
    ids=["no users", "no times", "no log"],
)
def test_a_file_that_is_no_log_is_told_what_one_is(
    shop: Shop, tmp_path: Path, dropped: list[str], words: list[str]
) -> None:
    """Told of a missing column alone, a user looks for a name that no column of the file could have."""
    with pytest.raises(InputError) as caught:
        read(tmp_path, shop._replace(log=shop.log.drop(dropped)))
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("columns", "remedy"),
    [
        ({"price": lambda value: "cheap" if value < 1500 else str(value)}, "name a column of numbers in data.positive"),
        ({"user_id": lambda value: None if value < "u5" else value}, "or name another column in data.user"),
        ({"timestamp": lambda value: "soon" if value % 4 else str(value)}, "or name another column in data.time"),
        ({"timestamp": lambda value: value * 10 if value % 4 else value}, "or name another column in data.time"),
    ],
    ids=["prices", "users", "times", "years"],
)
def test_a_fault_of_most_rows_is_never_to_be_dropped(
    shop: Shop, tmp_path: Path, columns: dict[str, Any], remedy: str
) -> None:
    """The advice would leave a tenth of the shop, and a study of it that looks like one of the shop."""
    positive = {"positive": {"column": "price", "at_least": 1}}
    with pytest.raises(InputError, match=remedy) as caught:
        read(tmp_path, written(shop, **columns), **positive)
    assert "drop" not in str(caught.value)
    dropped = read(tmp_path, written(shop, **columns), invalid="drop", **positive)
    assert any("rows of data.interactions were left out" in line and remedy in line for line in dropped.warnings)


def test_warnings_are_stored_with_the_data_and_shown_by_every_command_that_reads_them(
    shop: Shop, tmp_path: Path
) -> None:
    """The second start reads a cache, and is the one whose results are kept."""
    spec = study(tmp_path, written(shop, timestamp=range(len(shop.log))))
    for _ in range(2):
        found = check(spec, tmp_path / "cache")
        assert found.warnings[0].startswith('"timestamp" counts from 0 to 1799')
        assert found.to_json()["warnings"] == list(found.warnings)
        assert found.error is not None
        assert "the whole log is 0.021 days long: check that data.time is a time, or shorten" in found.error
    heard = Heard()
    load_data(spec.data, spec.protocol, tmp_path / "cache", heard)
    assert heard.notes == [f"warning: {found.warnings[0]}"]


def test_scenes_that_one_customer_decides_are_a_warning(shop: Shop, tmp_path: Path) -> None:
    """The recall of such a scene is 0 or 1, and counts as much as that of a scene with a hundred customers."""
    spec = study(tmp_path, shop)
    assert not any("queries in all" in warning for warning in check(spec, tmp_path / "cache").warnings)
    data = load_data(spec.data, spec.protocol, tmp_path / "cache")
    parts = split_scenes(data, spec.protocol)
    begin, end = parts.period["test"]
    lonely = data.scenes[int(parts.scenes["test"][0])]
    # In the test's period of this scene one customer is left, and that for two of five openings.
    there = pl.col("item_id").is_in(shop.items.filter(category=lonely)["item_id"].implode())
    there &= pl.col("timestamp") >= begin
    kept = shop.log.filter(~there | (pl.col("timestamp") < begin + 0.4 * (end - begin)))
    log = kept.with_columns(user_id=pl.when(there).then(pl.lit("u1")).otherwise("user_id"))
    (tmp_path / "lonely").mkdir()
    warnings = check(study(tmp_path / "lonely", shop._replace(log=log)), tmp_path / "cache").warnings
    (said,) = [warning for warning in warnings if "queries in all" in warning]
    assert said.startswith("1 of 3 meta-test scenes have fewer than 5 queries in all")
    assert "protocol.min_queries" in said
