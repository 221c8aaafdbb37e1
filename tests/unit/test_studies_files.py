"""The user's own files: every format gives the same shop, and whatever is wrong with one is said in one line."""

import bz2
import csv
import gzip
import io
import json
import tempfile
import time
import tomllib
from collections.abc import Callable
from datetime import date, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from storage.errors import InputError
from studies import machine_memory
from studies.data.coding import build_dataset
from studies.data.files import tables as tables_module
from studies.data.files.csv_files import text_stream
from studies.data.files.csv_files.text_stream import TextStream
from studies.data.files.ids import spell_alike
from studies.data.files.source import Files
from studies.data.files.text_template import render_text
from studies.data.source import Tables

LOG = (
    "user_id,item_id,timestamp,event,store\n"
    "u1,7,1600000000,buy,north\nu2,8,1600000100,view,south\nu1,8,1600000200,buy,\n"
)
ITEMS = "item_id,category,title,brand\n7,tea,green tea,Acme\n8,cups,mug,\n"

Write = Callable[..., Files]


def made(folder: Path, **keys: Any) -> Files:
    """The section of a study file in `folder`, with defaults for what a test does not care about."""
    given = {"source": "files", "interactions": "log.csv", "items": "items.csv", "scene": "category", "text": "title"}
    wanted = {key: value for key, value in (given | keys).items() if value is not None}
    return Files.model_validate(wanted, context={"folder": folder})


@pytest.fixture
def shop(tmp_path: Path) -> Write:
    """Writes files into a folder and gives the section that reads them."""

    def write(log: str | bytes = LOG, items: str | bytes = ITEMS, **keys: Any) -> Files:
        for name, content in (("log.csv", log), ("items.csv", items)):
            data = content.encode() if isinstance(content, str) else content
            (tmp_path / name).write_bytes(data)
        return made(tmp_path, **keys)

    return write


def rows(frame: pl.DataFrame) -> list[tuple[Any, ...]]:
    return sorted(frame.rows(), key=repr)


def same(one: Tables, other: Tables) -> None:
    assert one.interactions.columns == other.interactions.columns
    assert one.interactions.rows() == other.interactions.rows()
    assert one.items.columns == other.items.columns
    assert rows(one.items) == rows(other.items)
    assert (one.rows_read, one.dropped) == (other.rows_read, other.dropped)


def test_a_log_and_a_catalogue_become_the_two_tables(shop: Write) -> None:
    """The columns are a contract: whoever codes the rows finds them by name."""
    tables = shop().read()
    assert tables.interactions.columns == ["user", "product", "time"]
    assert tables.interactions.rows() == [("u1", "7", 1600000000), ("u2", "8", 1600000100), ("u1", "8", 1600000200)]
    assert rows(tables.items.select("product", "scene", "text")) == [("7", "tea", "green tea"), ("8", "cups", "mug")]
    assert tables.rows_read == 3
    assert tables.dropped == {}
    assert any("seconds" in note for note in tables.notes)
    assert len(build_dataset(tables).time) == 3


def test_a_stored_section_comes_back_as_it_was(shop: Write, tmp_path: Path) -> None:
    """A worker reads the section from the database, in another working directory."""
    section = shop(positive={"column": "event", "values": ["buy", 1, True]}, text=["title", "brand"])
    again = Files.model_validate(json.loads(section.model_dump_json()), context={"folder": Path("/elsewhere")})
    assert again == section
    assert again.files() == sorted([tmp_path / "items.csv", tmp_path / "log.csv"])


def test_toml_is_taken_as_it_is_written(tmp_path: Path) -> None:
    """Strict validation must not refuse what TOML calls a list or a number."""
    text = """
    source = "files"
    interactions = ["log.csv", "more"]
    items = "items.csv"
    scene = "category"
    text = ["title", "brand"]
    positive = { column = "rating", at_least = 3.5 }
    time_unit = "ms"
    min_users = 5
    """
    section = Files.model_validate(tomllib.loads(text), context={"folder": tmp_path})
    assert section.interactions == [str(tmp_path / "log.csv"), str(tmp_path / "more")]
    assert section.min_users == 5
    assert Files.paths <= set(Files.model_fields)


def test_paths_count_from_the_study_file_and_without_one_from_the_working_directory(
    shop: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counted from elsewhere, a study would run on whatever file happens to have that name there."""
    monkeypatch.chdir(tmp_path.parent)
    assert shop().interactions == [str(tmp_path / "log.csv")]
    loose = Files.model_validate({"source": "files", "interactions": "log.csv", "scene": "s", "text": "t"})
    assert loose.interactions == [str(tmp_path.parent / "log.csv")]
    absolute = shop(interactions=str(tmp_path / "log.csv"))
    assert absolute.interactions == [str(tmp_path / "log.csv")]


# What may be written differently without being another shop.

words = st.text(
    st.characters(codec="cp1252", categories=["L", "P", "N"], exclude_characters='"'), min_size=1, max_size=8
)
names = words.filter(lambda word: word.lower() not in {"nan", "null", "none", "<na>", "nat"} and "\\" not in word)
shops = st.tuples(
    st.lists(
        st.tuples(st.integers(0, 9), st.integers(0, 4), st.integers(10**9, 1_700_000_000)), min_size=1, max_size=9
    ),
    st.lists(st.tuples(names, st.none() | names), min_size=5, max_size=5),
)
LOG_COLUMNS, ITEM_COLUMNS = ["user_id", "item_id", "timestamp"], ["item_id", "category", "title"]


def as_csv(columns: list[str], table: list[tuple[Any, ...]], delimiter: str, encoding: str) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.writer(text, delimiter=delimiter)
    writer.writerow(columns)
    writer.writerows(["" if value is None else value for value in row] for row in table)
    return text.getvalue().encode(encoding)


def as_recbole(columns: list[str], table: list[tuple[Any, ...]]) -> bytes:
    header = "\t".join(f"{name}:{'float' if name == 'timestamp' else 'token'}" for name in columns)
    lines = ["\t".join("" if value is None else str(value) for value in row) for row in table]
    return "\n".join([header, *lines, ""]).encode()


def zstd(data: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(data)
    return sink.getvalue().to_pybytes()


PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "": lambda data: data,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".zst": zstd,
}


@settings(deadline=None, max_examples=40)
@given(
    shops,
    st.sampled_from([",", ";", "\t", "|"]),
    st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-16-be", "cp1252"]),
    st.sampled_from([*PACKERS]),
)
def test_one_shop_is_the_same_in_every_format_delimiter_encoding_and_compression(
    random_shop: tuple[list[Any], list[Any]], delimiter: str, encoding: str, packed: str
) -> None:
    """A shop that changes with its file format makes studies of the same data incomparable."""
    log, described = random_shop
    items = [(number, scene, text) for number, (scene, text) in enumerate(described)]
    if all(text is None for _, _, text in items):
        items[0] = (0, items[0][1], "tea")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pl.DataFrame(log, LOG_COLUMNS, orient="row").write_parquet(folder / "log.parquet")
        pl.DataFrame(items, ITEM_COLUMNS, orient="row").write_parquet(folder / "items.parquet")
        pack = PACKERS[packed]
        (folder / f"log.csv{packed}").write_bytes(pack(as_csv(LOG_COLUMNS, log, delimiter, encoding)))
        (folder / f"items.csv{packed}").write_bytes(pack(as_csv(ITEM_COLUMNS, items, delimiter, encoding)))
        (folder / "shop.inter").write_bytes(as_recbole(LOG_COLUMNS, log))
        (folder / "shop.item").write_bytes(as_recbole(ITEM_COLUMNS, items))
        parquet = made(folder, interactions="log.parquet", items="items.parquet").read()
        # A short text may be valid in several encodings: what cannot be known is given.
        given_encoding = encoding if encoding in ("cp1252", "utf-16-be") else None
        files = {"interactions": f"log.csv{packed}", "items": f"items.csv{packed}"}
        same(made(folder, **files, encoding=given_encoding).read(), parquet)
        same(made(folder, interactions="shop.inter", items="shop.item").read(), parquet)
        same(made(folder, **files | {"interactions": "log.parquet"}, encoding=given_encoding).read(), parquet)


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_delimiters_are_found_out_beside_the_others_inside_quotes(shop: Write, delimiter: str) -> None:
    """A title full of commas must not make a semicolon file a comma file."""
    table = [("7", "tea", 'green, "fine"; tea | leaf'), ("8", "cups", "a mug,\nin two lines")]
    tables = shop(items=as_csv(ITEM_COLUMNS, table, delimiter, "utf-8")).read()
    assert rows(tables.items.select("product", "scene", "text")) == table


def test_a_given_delimiter_is_taken(shop: Write) -> None:
    """What no sniffing knows must be sayable."""
    assert len(shop(log=LOG.replace(",", "^"), items=ITEMS.replace(",", "^"), delimiter="^").read().items) == 2


def test_quotes_that_a_backslash_escapes_are_quotes_and_other_backslashes_letters(tmp_path: Path) -> None:
    """Spark and MySQL write them; read as CSV has it, a text loses its inch mark, or a row its columns."""
    texts = ['a 5" cup', 'a 5", wide; cup', "C:\\new\\", 'ends with "', '\\"', "plain\nin two lines", "é" * 10]
    table = [(str(number), "tea", text) for number, text in enumerate(texts)]
    (tmp_path / "log.csv").write_text("user_id,item_id,timestamp\nu,0,1600000000\n")
    for encoding, spaces in (("utf-8", ""), ("utf-16", ""), ("utf-8", "\n" * 3)):
        for delimiter in (",", ";"):
            fields = [[f'"{x}"'.replace("\\", "\\\\") for x in (a, b, c.replace('"', "\0"))] for a, b, c in table]
            lines = [ITEM_COLUMNS, *([x.replace("\0", '\\"') for x in row] for row in fields)]
            content = spaces + "".join(delimiter.join(line) + "\n" for line in lines)
            (tmp_path / "items.csv").write_bytes(content.encode(encoding))
            tables = made(tmp_path).read()
            assert sorted(tables.items.select("product", "scene", "text").rows()) == table
            assert "items.csv escapes quotes by a backslash; they were read as quotes." in tables.notes
    # CSV as it should be, in which a field ends with a backslash.
    (tmp_path / "items.csv").write_bytes(as_csv(ITEM_COLUMNS, [("0", "a,b", "C:\\"), ("1", 'x"y', "\\")], ",", "utf-8"))
    tables = made(tmp_path).read()
    assert tables.items["text"].to_list() == ["C:\\", "\\"]
    assert not any("backslash" in note for note in tables.notes)


@pytest.mark.parametrize("piece", [1, 2, 7])
def test_escapes_and_odd_quotes_are_seen_across_the_pieces_of_a_file(tmp_path: Path, piece: int) -> None:
    """A file is read in pieces; what lies on a seam must not be missed."""
    written = '"a \\\\\\" b","c\\\\","d \\"\\" e"\n'
    (tmp_path / "x.csv").write_text(written)
    with TextStream(tmp_path / "x.csv", "utf-8", ",", b"#end", unescape=True) as stream:
        assert b"".join(iter(lambda: stream.read(4 * piece), b"")) == b'"a \\"" b","c\\","d """" e"\n#end'
    for text, odd in (('a,"b ""c"" d",e\n', False), ('a,"b "c" d",e\n', True), ('"a","",""""\n', False)):
        (tmp_path / "x.csv").write_text(text)
        with TextStream(tmp_path / "x.csv", "utf-8", ",") as stream:
            while stream.read(4 * piece):
                pass
        assert stream.odd_quotes == odd


def test_a_first_line_that_names_the_delimiter_is_no_header(shop: Write) -> None:
    """Spreadsheets write it to tell each other, and read their own files without it as one column."""
    plain = shop().read()
    for first in ("sep=;\n", '"sep=;"\r\n', "SEP=;\n\n", "\ufeffsep=;\n"):
        same(shop(log=first + LOG.replace(",", ";"), items=first + ITEMS.replace(",", ";")).read(), plain)
    same(shop(log="sep=^\n" + LOG.replace(",", "^")).read(), plain)
    same(shop(log="sep=;\n" + LOG, delimiter=",").read(), plain)


def test_what_would_fill_the_memory_is_refused_while_it_is_read(
    shop: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A few megabytes may unpack to more than any machine holds; killed for it, the program could not say why."""
    shop()
    rows = LOG.partition("\n")[2] * 50_000
    (tmp_path / "log.csv.gz").write_bytes(gzip.compress((LOG + rows).encode(), 1))
    ids = {"user_id": ["u"], "item_id": ["7"], "timestamp": [1_600_000_000], "event": ["buy"]}
    pl.DataFrame(ids).select(pl.all().repeat_by(200_000).explode()).write_parquet(tmp_path / "log.parquet")
    assert (tmp_path / "log.parquet").stat().st_size < 100_000
    positive = {"column": "event", "values": ["buy"]}
    for name in ("log.csv.gz", "log.parquet"):
        for keys in ({}, {"positive": positive}):
            with monkeypatch.context() as patch:
                patch.setattr(machine_memory, "available_memory", lambda: 5_000_000)
                patch.setattr(tables_module, "available_memory", lambda: 5_000_000)
                with pytest.raises(InputError, match=rf"{name} needs more than .* GiB of memory, of which 0\.0 GiB"):
                    made(tmp_path, interactions=name, **keys).read()
    monkeypatch.setattr(text_stream, "_UNPACKED", 1 << 20)
    monkeypatch.setattr(text_stream, "_RATIO", 10)
    with pytest.raises(InputError, match=r"log\.csv\.gz unpacks to more than 10 times its size and 1 MB"):
        made(tmp_path, interactions="log.csv.gz").read()


def test_text_that_is_not_utf_8_is_read_as_windows_text_and_said(shop: Write) -> None:
    """Excel writes it; refused it would lose most spreadsheets, unsaid it could garble titles unseen."""
    tables = shop(items=ITEMS.replace("mug", "Tässchen €").encode("cp1252")).read()
    assert "Tässchen €" in tables.items["text"].to_list()
    assert [note for note in tables.notes if "items.csv is not UTF-8 and was read as cp1252" in note]


def test_bytes_that_are_not_utf_8_far_below_the_header_are_found(shop: Write) -> None:
    """Sniffing sees the head of a file only."""
    many = "".join(f"{n},tea,title of {n}\n" for n in range(9, 20_000))
    data = ("item_id,category,title\n7,tea,x\n8,cups,y\n" + many).encode() + "20000,tea,Tee für zwei\n".encode("cp1252")
    tables = shop(items=data).read()
    assert tables.items["text"][-1] == "Tee für zwei"


def test_line_ends_blank_lines_padding_and_a_missing_last_newline_do_not_matter(shop: Write) -> None:
    """Each is an accident of some editor."""
    plain = shop().read()
    same(shop(log="\r\n" + LOG.replace("\n", "\r\n\r\n").rstrip(), items=ITEMS.rstrip()).read(), plain)
    same(shop(log=LOG.replace(",", " , "), items=ITEMS.replace(",", " , ")).read(), plain)
    same(shop(log=LOG.replace("\n", "\r")).read(), plain)


def test_recbole_files_are_called_without_their_types_and_quotes_are_letters(tmp_path: Path) -> None:
    """RecBole quotes nothing: a title with one inch mark must not swallow the next items."""
    (tmp_path / "ml.inter").write_text(
        "user_id:token\titem_id:token\trating:float\ttimestamp:float\n1\t7\t5.0\t1.6e9\n"
    )
    (tmp_path / "ml.item").write_text(
        'item_id:token\ttitle:token_seq\tclass:token_seq\n7\t"Heat" 5" cut\tCrime\n8\t"\tX\n'
    )
    (tmp_path / "ml.user").write_text("user_id:token\toccupation:token\n1\twriter\n")
    keys: dict[str, Any] = {"interactions": "ml.inter", "items": "ml.item", "text": ["title", "class"]}
    tables = made(tmp_path, **keys, scene="class").read()
    assert rows(tables.items.select("product", "text")) == [("7", '"Heat" 5" cut, Crime'), ("8", '", X')]
    by_user = made(tmp_path, **keys, users="ml.user", scene="occupation").read()
    assert by_user.interactions.to_dicts() == [{"user": "1", "product": "7", "time": 1600000000, "scene": "writer"}]
    assert by_user.items.columns == ["product", "text"]


def test_ids_are_text_in_every_table_however_they_are_stored(tmp_path: Path) -> None:
    """7 in one file and "7" or 7.0 in another are one item; joined by type, the log would lose every row."""
    stamps = [1_600_000_000, 1_600_000_001, 1_600_000_002]
    ids: list[pl.Series] = [
        pl.Series([7, 8, 7], dtype=pl.Int32),
        pl.Series([7.0, 8.0, 7.0]),
        pl.Series(["7", "8", "7"]),
        pl.Series(["7", "8", "7"], dtype=pl.Categorical),
        pl.Series([" 7", "8 ", "7"]),
    ]
    (tmp_path / "items.csv").write_text(ITEMS)
    (tmp_path / "floats.csv").write_text(ITEMS.replace("\n7,", "\n7.0,").replace("\n8,", "\n8.0,"))
    for column in ids:
        pl.DataFrame({"user_id": column, "item_id": column, "timestamp": stamps}).write_parquet(
            tmp_path / "log.parquet"
        )
        for items in ("items.csv", "floats.csv"):
            tables = made(tmp_path, interactions="log.parquet", items=items).read()
            assert tables.interactions["product"].to_list() == ["7", "8", "7"]
            assert sorted(tables.items["product"]) == ["7", "8"]
    # A leading zero and a real fraction are part of the id.
    (tmp_path / "log.csv").write_text("user_id,item_id,timestamp\n007,7,1600000000\n1.5,8,1600000001\n")
    assert made(tmp_path).read().interactions["user"].to_list() == ["007", "1.5"]


# Ids as the log and as the catalogue spell them, and what both become; None where a row has no id.
SPELLINGS: dict[str, tuple[list[str], list[str], list[str | None], list[str]]] = {
    "floats beside a missing value": (["12.0", "NULL", "13.0"], ["12", "13"], ["12", None, "13"], ["12", "13"]),
    "every word for missing": (["7", "NaN", "none", "N/A", "-"], ["7", "8"], ["7", *[None] * 4], ["7", "8"]),
    "a word for missing that is a name": (["NA", "DE"], ["NA", "DE"], ["NA", "DE"], ["NA", "DE"]),
    "floats and integers": (["12", "12.0", "13"], ["12.00", "13"], ["12", "12", "13"], ["12", "13"]),
    "floats beside words": (["12.0", "A7"], ["12", "A7"], ["12", "A7"], ["12", "A7"]),
    "large floats": (["1.2345678901234568e+16", "5.0"], ["12345678901234568", "5"], ["12345678901234568", "5"], []),
    "hexadecimal ids": (["12e4", "7"], ["12e4", "7"], ["12e4", "7"], ["12e4", "7"]),
    "leading zeros": (["00000017", "00000018"], ["17", "18"], ["17", "18"], ["17", "18"]),
    "leading zeros in the catalogue": (["17", "180"], ["017", "180"], ["17", "180"], ["17", "180"]),
    "zeros that tell two ids apart": (["17", "017", "5"], ["17", "017", "05"], ["17", "017", "5"], ["17", "017", "05"]),
    "versions": (["1.0", "1", "1.5"], ["1", "1.5"], ["1.0", "1", "1.5"], ["1", "1.5"]),
    "decimal commas of whole numbers": (["12,0", "13,0"], ["12", "13"], ["12", "13"], ["12", "13"]),
    "signs between thousands": (["1.541", "1.000"], ["1541", "1000"], ["1541", "1000"], ["1541", "1000"]),
    "fractions that tell ids apart": (["1.541", "1541"], ["1541", "1.541"], ["1.541", "1541"], ["1541", "1.541"]),
    "letter case": (["ab-1", "ab-2"], ["AB-1", "AB-2"], ["ab-1", "ab-2"], ["ab-1", "ab-2"]),
    "case that tells two ids apart": (["x", "Y"], ["x", "X", "y"], ["x", "Y"], ["x", "X", "y"]),
    "Unicode's forms": (["Cafe\u0301", "１７", " a\u00a0"], ["Café", "17", "a"], ["Café", "17", "a"], []),
}


@pytest.mark.parametrize(("log", "items", "spelled", "catalogue"), SPELLINGS.values(), ids=SPELLINGS)
def test_ids_have_one_spelling_over_both_tables(
    log: list[str], items: list[str], spelled: list[str | None], catalogue: list[str]
) -> None:
    """Each spelling is some program's; rows lost to it would look like products that the shop does not sell."""
    ids = spell_alike(pl.Series(log), pl.Series(items))
    assert ids.log.to_list() == spelled
    assert ids.table is not None
    assert ids.table.to_list() == (catalogue or spelled)


def test_ids_of_files_match_in_every_spelling_and_what_was_assumed_or_is_unknown_is_said(shop: Write) -> None:
    """A guess that nobody sees cannot be corrected; neither can an id that no table explains."""
    log = "user_id,item_id,timestamp,store\n1.0,00007,1600000000,1.0\nNULL,00008,1600000001,2\n2.0,00009,1600000002,1\n"
    tables = shop(log=log, invalid="drop", scene="store").read()
    assert tables.interactions.rows() == [("1", "7", 1600000000, "1"), ("2", "9", 1600000002, "1")]
    assert tables.dropped == {"row without user": 1}
    assert "Ids of items were compared without regard to leading zeros." in tables.notes
    assert any('1 of 3 ids of items in the log are not in data.items, such as "9"' in note for note in tables.notes)


def test_decimals_are_the_numbers_they_are(tmp_path: Path) -> None:
    """Databases write ids as decimal(38, 9)."""
    (tmp_path / "items.csv").write_text(ITEMS)
    columns = {"user_id": ["17", "100"], "item_id": ["7", "8"], "timestamp": ["1600000000", "1600000100"]}
    decimals = pl.DataFrame(columns).cast(pl.Decimal(38, 9))
    decimals.with_columns(price=pl.Series(["9.990", "0"]).cast(pl.Decimal(38, 9))).write_parquet(
        tmp_path / "log.parquet"
    )
    bought = {"column": "price", "values": [9.99, 0]}
    tables = made(tmp_path, interactions="log.parquet", positive=bought).read()
    assert tables.interactions.rows() == [("17", "7", 1600000000), ("100", "8", 1600000100)]


def test_a_folder_of_parts_is_one_table_and_hidden_files_are_no_parts(tmp_path: Path) -> None:
    """Spark's markers read as data would stop every read; a part left out would shrink the shop unsaid."""
    (tmp_path / "items.csv").write_text(ITEMS)
    log = tmp_path / "log"
    for day, user in (("2020-09-13", 1), ("2020-09-14", 2)):
        (log / f"day={day}" / "shop=a%20b").mkdir(parents=True)
        part = pl.DataFrame({"user_id": [user, 3], "item_id": [7, 8], "n": [1, 2]})
        part.write_parquet(log / f"day={day}" / "shop=a%20b" / "part-0.parquet")
    (log / "_SUCCESS").touch()
    (log / ".part-0.parquet.crc").write_bytes(b"x")
    (log / "_temporary").mkdir()
    (log / "_temporary" / "part-1.parquet").write_bytes(b"half")
    section = made(tmp_path, interactions="log", time="day", scene="shop", text="title")
    assert [path.name for path in section.files()] == ["items.csv", "part-0.parquet", "part-0.parquet"]
    tables = section.read()
    assert tables.interactions.rows() == [
        ("1", "7", 1599955200, "a b"),
        ("3", "8", 1599955200, "a b"),
        ("2", "7", 1600041600, "a b"),
        ("3", "8", 1600041600, "a b"),
    ]
    same(made(tmp_path, interactions=["log", "log/day=2020-09-13/shop=a%20b"], time="day", scene="shop").read(), tables)


def test_a_list_of_parts_may_hold_ids_of_several_types_and_a_part_without_rows(tmp_path: Path) -> None:
    """Types drift from month to month, and some months are empty."""
    (tmp_path / "items.csv").write_text(ITEMS)
    for name, user, stamp in (
        ("a", [1], [1_600_000_000]),
        ("b", ["x"], [1_600_000_001.5]),
        ("c", [2.0], [1_600_000_002]),
    ):
        frame = pl.DataFrame({"user_id": user, "item_id": [7], "timestamp": stamp})
        frame.write_parquet(tmp_path / f"{name}.parquet")
    frame.clear().write_parquet(tmp_path / "d.parquet")
    tables = made(tmp_path, interactions=["a.parquet", "b.parquet", "c.parquet", "d.parquet"]).read()
    assert tables.interactions.rows() == [("1", "7", 1600000000), ("x", "7", 1600000001), ("2", "7", 1600000002)]


def test_one_file_may_hold_everything_and_an_item_has_its_earliest_text(tmp_path: Path) -> None:
    """The latest text would tell of the future; any text would depend on the order of rows."""
    log = (
        "user_id,item_id,timestamp,category,title\nu1,7,1600000300,tea,new name\nu2,7,1600000100,tea,\n"
        "u3,7,1600000200,gifts,old name\nu4,8,1600000100,cups,mug\nu5,9,1600000100,cups,\n"
    )
    (tmp_path / "log.csv").write_text(log)
    tables = made(tmp_path, items=None).read()
    assert tables.interactions.columns == ["user", "product", "time", "scene"]
    assert tables.interactions["scene"].to_list() == ["tea", "tea", "gifts", "cups", "cups"]
    assert tables.items.columns == ["product", "text"]
    assert tables.items.rows() == [("7", "old name"), ("8", "mug"), ("9", None)]
    assert "1 items have more than one text; the earliest is used." in tables.notes


def test_the_scene_is_found_in_items_then_in_the_log_then_in_users(shop: Write, tmp_path: Path) -> None:
    """Another order would make another study of the same keys."""
    (tmp_path / "users.csv").write_text("user_id,country,store\nu1,DE,home\nu1,DE,home\nu9,FR,x\n")
    assert "scene" in shop(users="users.csv").read().items.columns
    by_store = shop(scene="store", users="users.csv").read()
    assert by_store.interactions["scene"].to_list() == ["north", "south", None]
    assert any("data.users was not needed" in note for note in by_store.notes)
    by_country = shop(scene="country", users="users.csv").read()
    assert by_country.interactions["scene"].to_list() == ["DE", None, "DE"]
    assert any("1 repeated rows" in note and "users.csv" in note for note in by_country.notes)


def test_each_user_may_be_a_scene(shop: Write) -> None:
    """The protocol treats such scenes differently and must be told."""
    section = shop(scene="user_id", items=ITEMS.replace("category", "user_id"))
    assert section.scene_is_user
    tables = section.read()
    assert tables.interactions["scene"].to_list() == tables.interactions["user"].to_list()
    assert not shop().scene_is_user


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("title", ["green tea", "mug", None]),
        (["title", "brand"], ["green tea, Acme", "mug", None]),
        ("{title} by {brand}", ["green tea by Acme", "mug", None]),
        ("{{{title}}}: {title}", ["{green tea}: green tea", "{mug}: mug", None]),
        ("{brand}", ["Acme", None, None]),
    ],
)
def test_a_text_is_a_column_several_or_a_template(shop: Write, text: Any, expected: list[str | None]) -> None:
    """Empty fields that leave their commas behind are noise to the encoder; a text of nothing but its frame is none."""
    tables = shop(items=ITEMS + '9,cups," ",\n', text=text).read()
    assert tables.items["text"].to_list() == expected


# Templates, and their texts where title, brand and size, title and size, brand and size, or only one has a value.
TEMPLATES = {
    "{title}, {brand}, {size}": ["T, B, S", "T, S", "B, S", "T", "B", "S"],
    "{title} ({brand}) by {size}": ["T (B) by S", "T by S", "(B) by S", "T", "(B)", "by S"],
    "{title} by {brand}, {size} ml": ["T by B, S ml", "T, S ml", "B, S ml", "T", "B", "S ml"],
    "{brand}: {title}, size {size}": ["B: T, size S", "T, size S", "B, size S", "T", "B", "size S"],
    "Title: {title}. Brand: {brand} - {size}.": [
        "Title: T. Brand: B - S.", "Title: T - S.", "Brand: B - S.", "Title: T", "Brand: B", "S.",
    ],
    '"{title}" {{{size}}} [{brand}]': ['"T" {S} [B]', '"T" {S}', "{S} [B]", '"T"', "[B]", "{S}"],
    "{title} {size} ml of {brand}": ["T S ml of B", "T S", "S ml of B", "T", "B", "S"],
}  # fmt: skip


@pytest.mark.parametrize(("template", "texts"), TEMPLATES.items(), ids=TEMPLATES)
def test_an_empty_field_takes_with_it_what_belongs_to_it(template: str, texts: list[str]) -> None:
    """A bracket, a unit or a comma of nothing is noise to the encoder, and alike in all products without the field."""
    filled = [("T", "B", "S"), ("T", None, "S"), ("", "B", "S"), ("T", "", None), (None, "B", ""), (None, None, "S")]
    frame = pl.DataFrame(filled, ["title", "brand", "size"], orient="row")
    assert frame.select(render_text(template).alias("text"))["text"].to_list() == texts
    assert texts[0] == template.format(title="T", brand="B", size="S")


def test_lists_in_parquet_are_joined_into_the_text(tmp_path: Path) -> None:
    """Tags are mostly stored as lists."""
    (tmp_path / "log.csv").write_text(LOG)
    frame = pl.DataFrame({"item_id": [7, 8], "category": ["a", "b"], "tags": [["hot", "green"], []]})
    frame.write_parquet(tmp_path / "items.parquet")
    assert made(tmp_path, items="items.parquet", text="tags").read().items["text"].to_list() == ["hot, green", None]


@pytest.mark.parametrize(
    ("column", "condition", "kept"),
    [
        (["buy", "view", "buy"], {"values": ["buy"]}, [0, 2]),
        ([1, 0, 1], {"values": ["1"]}, [0, 2]),
        ([1, 0, 1], {"values": [1]}, [0, 2]),
        ([1.0, 0.5, None], {"values": [1, 0.5]}, [0, 1]),
        ([True, False, None], {"values": [True]}, [0]),
        ([4, 3, None], {"at_least": 4}, [0]),
        ([4.5, float("nan"), 3.9], {"at_least": 4}, [0]),
        (["4", "", "10"], {"at_least": 4}, [0, 2]),
        (["4,5", "1.000", "3,9"], {"at_least": 4}, [0, 1]),
        (["4,5", "4.50", "45"], {"values": [4.5]}, [0, 1]),
    ],
)
def test_rows_that_do_not_count_are_dropped_under_a_reason(
    tmp_path: Path, column: list[Any], condition: dict[str, Any], kept: list[int]
) -> None:
    """A view that counts as a purchase makes every recall look better than it is."""
    (tmp_path / "items.csv").write_text(ITEMS)
    stamps = [1_600_000_000 + n for n in range(3)]
    frame = pl.DataFrame({"user_id": [1, 2, 3], "item_id": [7, 8, 7], "timestamp": stamps, "mark": column})
    frame.write_parquet(tmp_path / "log.parquet")
    frame.write_csv(tmp_path / "log.csv")
    for name in ("log.parquet", "log.csv"):
        tables = made(tmp_path, interactions=name, positive={"column": "mark"} | condition).read()
        assert tables.interactions["time"].to_list() == [stamps[place] for place in kept]
        assert list(tables.dropped.values()) == [3 - len(kept)]
        assert next(iter(tables.dropped)).startswith("mark ")
        assert tables.rows_read == 3


def test_invalid_rows_are_dropped_and_counted_by_reason_when_the_study_says_so(shop: Write) -> None:
    """Every row read must be in the log or under a reason: the sum is what a user checks."""
    log = (
        "user_id,item_id,timestamp,rating\n,7,1600000000,5\nNaN,7,1600000000,5\nu,,1600000000,5\nu,7,,5\nu,7,soon,5\n"
        "u,7,-5,5\nu,7,99999999999,5\nu,7,1600000000,good\nu,7,1600000000,1\nu,7,1600000000,5\n"
    )
    tables = shop(
        log=log, items=ITEMS + ",tea,nameless,\n", positive={"column": "rating", "at_least": 2}, invalid="drop"
    ).read()
    assert tables.dropped == {
        "rating missing or below 2": 1,
        "rating not a number": 1,
        "row without user": 2,
        "row without item": 1,
        "row without time": 1,
        "time that is not a number or an ISO 8601 date": 1,
        "time before 1970 or in the future": 2,
    }
    assert tables.rows_read == 10 == len(tables.interactions) + sum(tables.dropped.values())
    assert "1 rows of data.items were left out: item without id." in tables.notes


def test_times_in_the_shops_own_zone_and_format(shop: Write) -> None:
    """The keys must reach the reader of times."""
    log = "user_id,item_id,timestamp\nu,7,31.12.2020 23:30\nu,8,01.01.2021 00:30\n"
    tables = shop(log=log, time_format="%d.%m.%Y %H:%M", timezone="Europe/Berlin").read()
    assert tables.interactions["time"].to_list() == [1609453800, 1609457400]
    tables = shop(log="user_id,item_id,timestamp\nu,7,1600000000\nu,8,1600000001\n", time_unit="ms").read()
    assert tables.interactions["time"].to_list() == [1600000, 1600000]


def test_rows_of_an_item_that_say_the_same_are_merged_and_noted(shop: Write) -> None:
    """A join that doubles an item would double its interactions."""
    tables = shop(items=ITEMS + "7,tea,green tea,Other\n7,,green tea,\n").read()
    assert rows(tables.items.select("product", "scene", "text")) == [("7", "tea", "green tea"), ("8", "cups", "mug")]
    assert any("2 repeated rows" in note and "items.csv" in note for note in tables.notes)


def test_tomorrow_is_no_future_yet(shop: Write) -> None:
    """A shop east of the server has rows of tomorrow."""
    now = int(time.time())
    log = f"user_id,item_id,timestamp\nu,7,{now + 3600}\nu,8,{now}\n"
    assert len(shop(log=log).read().interactions) == 2


# What a user can do wrong, and the words that must be in the one line they get.

HEAD = "user_id,item_id,timestamp\n"
BAD_CONTENT: list[tuple[str, dict[str, Any], list[str]]] = [
    ("ragged row", {"log": LOG + "u3,7,1600000000\n"}, ["log.csv row 5", "has 3 columns", "has 5", "data.delimiter"]),
    ("long row", {"items": ITEMS + "9,a,b,c,d\n"}, ["items.csv row 4", "has 5 columns", "has 4", "quote fields"]),
    (
        "quote inside quotes",
        {"items": ITEMS + '9,tea,"a 5" cup",\n'},
        ["items.csv row 4", "a quote inside a quoted field", 'double it ("")'],
    ),
    (
        "some quotes escaped, some not",
        {"items": ITEMS + '9,tea,"a 5\\" cup",\n10,tea,"6" cup",\n'},
        ["items.csv row 4", "a quote inside a quoted field", 'double it ("")'],
    ),
    (
        "huge cell",
        {"items": ITEMS + "9,tea," + "x" * 9_000_000 + ",\n"},
        ["items.csv row 4 is longer than 4 MB", "huge cell", "shorten the cell"],
    ),
    (
        "open quote before a large rest",
        {"items": ITEMS + '9,tea,"cup,\n' + "10,tea,pot,\n" * 800_000},
        ["items.csv row 4 is longer than 4 MB", "never closed", "close the quote"],
    ),
    ("row after a delimiter line", {"log": "sep=,\n\n" + LOG.replace("u2", "")}, ["log.csv row 5", "without user"]),
    (
        "open quote",
        {"items": ITEMS + '9,tea,title,"x\n10,tea,y,z\n'},
        ["items.csv", "row 4", "never closed", "close it"],
    ),
    ("empty file", {"log": ""}, ["log.csv is empty", "give a file"]),
    ("blank file", {"log": " \n\n"}, ["log.csv is empty", "give a file"]),
    ("header only", {"log": HEAD}, ["log.csv holds a header but no rows", "give a file with rows"]),
    ("items header only", {"items": "item_id,category,title\n"}, ["items.csv", "no rows", "give a file with rows"]),
    ("doubled header", {"items": "item_id,title,title,category\n7,a,b,c\n"}, ["2 columns named", "title", "rename"]),
    (
        "no user column",
        {"log": LOG.replace("user_id", "userid")},
        ["data.user", "log.csv", "did you mean userid?", "store"],
    ),
    ("no item column", {"log": LOG.replace("item_id", "sku")}, ["data.item", "log.csv", "sku", "correct data.item"]),
    ("no item column in items", {"items": ITEMS.replace("item_id", "id")}, ["data.item", "items.csv", "category"]),
    ("no time column", {"time": "when"}, ["data.time", '"when"', "timestamp", "correct data.time"]),
    ("no text column", {"text": "titel"}, ["data.text", "items.csv", "did you mean title?"]),
    ("no template column", {"text": "{title} {color}"}, ["data.text", '"color"', "category", "correct data.text"]),
    (
        "no scene column",
        {"scene": "categories"},
        ["data.scene", "items.csv", "log.csv", "did you mean category", "correct"],
    ),
    (
        "no positive column",
        {"positive": {"column": "evnt", "values": ["buy"]}},
        ["positive.column", "did you mean event"],
    ),
    (
        "positive names an event that never occurs",
        {"positive": {"column": "event", "values": ["buy", "veiw"]}},
        ["log.csv has event = 'veiw'", "'buy'", "'view'", "correct data.positive"],
    ),
    (
        "positive matches none",
        {"positive": {"column": "event", "values": ["Buy"]}},
        ["'buy'", "'view'", "correct data.posi"],
    ),
    (
        "rating is text",
        {"positive": {"column": "event", "at_least": 1}},
        ["event", "log.csv row 2", "at_least", "values"],
    ),
    (
        "user missing",
        {"log": LOG.replace("u2", "")},
        ['"user_id"', "1 of 3 rows", "log.csv row 3", 'data.invalid = "drop"'],
    ),
    (
        "user NaN",
        {"log": LOG.replace("u1", "nan")},
        ['"user_id"', "2 of 3", "row 2, log.csv row 4", "or name another column in data.user"],
    ),
    ("item blank", {"log": LOG.replace(",7,", ", ,")}, ['"item_id"', "1 of 3 rows", "log.csv row 2", "fill them in"]),
    (
        "item id blank",
        {"items": ITEMS.replace("\n7,", "\n,")},
        ['"item_id"', "items.csv row 2", 'data.invalid = "drop"'],
    ),
    (
        "ids that match none of the catalogue",
        {"log": LOG.replace(",7,", ",A-7,").replace(",8,", ",A-8,")},
        ["data.item", "none of the 2 ids", "log.csv", '"A-7"', "items.csv", '"7"', "leading zeros", "write them alike"],
    ),
    ("time missing", {"log": LOG.replace("1600000100", "")}, ['"timestamp"', "log.csv row 3", 'data.invalid = "drop"']),
    (
        "time unreadable",
        {"log": LOG.replace("1600000100", "soon")},
        ["log.csv row 3 ('soon')", "set data.time_format", "drop"],
    ),
    (
        "time unlike format",
        {"time_format": "%Y-%m-%d"},
        ["log.csv row 2 ('1600000000')", '"%Y-%m-%d"', "3 of 3", "time_format"],
    ),
    ("time negative", {"log": LOG.replace("1600000100", "-9")}, ["row 3 ('-9')", "1970", "1 of 3", "data.time_unit"]),
    (
        "seconds among milliseconds",
        {"log": LOG.replace("1600000200", "1600000200000").replace("1600000000", "1600000000000")},
        ["log.csv row 3 ('1600000100')", "1 of 3 rows", "milliseconds", "write all in one unit", 'invalid = "drop"'],
    ),
    (
        "time in the future",
        {"time_unit": "s", "log": LOG.replace("0000100", "000010000")},
        ["row 3", "future", "time_unit"],
    ),
    ("dates as digits", {"log": HEAD + "u,7,20240131\n"}, ['"timestamp"', "20240131", 'data.time_format = "%Y%m%d"']),
    (
        "conflicting scenes",
        {"items": ITEMS + "7,herbs,green tea,\n"},
        ['"7"', '"herbs", "tea"', "items.csv", "keep one row"],
    ),
    ("conflicting texts", {"items": ITEMS + "7,tea,black tea,\n"}, ['"7"', '"black tea", "green tea"', "keep one row"]),
    (
        "text empty",
        {"items": ITEMS.replace("green tea", "").replace("mug", " ")},
        ["data.text", "empty in every row", "items"],
    ),
    (
        "scene empty",
        {"items": ITEMS.replace("tea,", ",").replace("cups", "")},
        ["data.scene", "empty in every row", "name a"],
    ),
    (
        "not UTF-8 as said",
        {"items": b"item_id,category,title\n7,a,T\xe4\n", "encoding": "utf-8"},
        ["items.csv", "0xe4", "data.enc"],
    ),
    (
        "broken UTF-8",
        {"items": ITEMS.replace("mug", "éàü").encode() + b"9,a,\xe4,\n"},
        ["items.csv", "utf-8", "repair it"],
    ),
    (
        "no code page",
        {"items": b"item_id,category,title\n7,a,\x81\n"},
        ["items.csv", "cp1252", "0x81", "data.encoding"],
    ),
    ("UTF-16 unmarked", {"items": ITEMS.encode("utf-16-le")}, ["items.csv", "zero bytes", "data.encoding"]),
    ("wrong delimiter", {"delimiter": ";"}, ["log.csv", 'no column "user_id"', "user_id,item_id", "data.delimiter"]),
    (
        "no such file",
        {"interactions": "lgo.csv"},
        ["data.interactions", "lgo.csv does not exist", "study file's folder"],
    ),
    ("unknown suffix", {"interactions": "log.xlsx"}, ["log.xlsx", ".parquet", ".inter", "convert it"]),
    ("empty folder", {"interactions": "nothing"}, ["nothing holds no files", ".parquet", "another folder"]),
    (
        "mixed formats",
        {"interactions": ["log.csv", "good.parquet"]},
        ["log.csv is CSV", "good.parquet is parquet", "one format"],
    ),
    (
        "truncated parquet",
        {"interactions": "cut.parquet"},
        ["cut.parquet cannot be read", "cut short", "write it anew"],
    ),
    (
        "parquet that is none",
        {"interactions": "text.parquet"},
        ["text.parquet cannot be read", "another format", "anew"],
    ),
    ("truncated gzip", {"interactions": "cut.csv.gz"}, ["cut.csv.gz cannot be read", "Truncated", "write it anew"]),
    ("gzip that is none", {"interactions": "plain.csv.gz"}, ["plain.csv.gz cannot be read", "another format"]),
    (
        "times of two kinds",
        {"interactions": ["good.parquet", "dates.parquet"]},
        ["good.parquet", "dates.parquet", "same type"],
    ),
    (
        "part lacks a column",
        {"interactions": ["good.parquet", "less.parquet"]},
        ["data.time", "less.parquet", "timestamp"],
    ),
    ("ids of no use", {"interactions": "nested.parquet"}, ["nested.parquet", '"user_id"', "type Struct", "convert it"]),
    (
        "row of a part",
        {"interactions": ["good.parquet", "gap.parquet"]},
        ["gap.parquet row 2", '"user_id"', "2 of 4 rows"],
    ),
]


@pytest.mark.parametrize(("keys", "words"), [case[1:] for case in BAD_CONTENT], ids=[case[0] for case in BAD_CONTENT])
def test_what_is_wrong_with_the_files_is_said_in_one_line(
    shop: Write, tmp_path: Path, keys: dict[str, Any], words: list[str]
) -> None:
    """Read on regardless, each of these would give a smaller or another shop without a word."""
    good = pl.DataFrame({"user_id": [1, 2], "item_id": [7, 8], "timestamp": [1_600_000_000, 1_600_000_001]})
    good.write_parquet(tmp_path / "good.parquet")
    good.drop("timestamp").write_parquet(tmp_path / "less.parquet")
    good.with_columns(user_id=pl.Series([None, None], dtype=pl.Int64)[:2]).write_parquet(tmp_path / "gap.parquet")
    good.with_columns(user_id=pl.struct("user_id")).write_parquet(tmp_path / "nested.parquet")
    good.with_columns(timestamp=pl.Series([date(2021, 1, 1), date(2021, 1, 2)])).write_parquet(
        tmp_path / "dates.parquet"
    )
    (tmp_path / "cut.parquet").write_bytes((tmp_path / "good.parquet").read_bytes()[:-20])
    (tmp_path / "text.parquet").write_text(LOG)
    (tmp_path / "cut.csv.gz").write_bytes(gzip.compress(LOG.encode())[:-12])
    (tmp_path / "plain.csv.gz").write_text(LOG)
    (tmp_path / "log.xlsx").touch()
    (tmp_path / "nothing").mkdir()
    content = {name: keys[name] for name in ("log", "items") if name in keys}
    shop(**content)
    section = made(tmp_path, **{name: value for name, value in keys.items() if name not in content})
    with pytest.raises(InputError) as caught:
        section.read()
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message, message


BAD_KEYS: list[tuple[dict[str, Any], list[str]]] = [
    ({"interactions": 5}, ["takes a path or a list of paths", "5"]),
    ({"interactions": []}, ["takes a path or a list of paths"]),
    ({"items": [""]}, ["takes a path or a list of paths"]),
    ({"timezone": "Europe/Berln"}, ["unknown time zone", "Europe/Berlin"]),
    ({"timezone": "Tokyo"}, ["unknown time zone", "Asia/Tokyo"]),
    ({"timezone": "12345"}, ["unknown time zone", "IANA name"]),
    ({"time_format": "dd.mm.yyyy"}, ["does not describe a date", "%d.%m.%Y"]),
    ({"time_format": "%Y-%m-%d", "time_unit": "s"}, ["time_unit is for numbers", "one of them"]),
    ({"time_unit": "min"}, ["'s', 'ms', 'us' or 'ns'"]),
    ({"delimiter": "::"}, ["takes one character", "'::'"]),
    ({"delimiter": '"'}, ["takes one character"]),
    ({"encoding": "utf8mb4"}, ["unknown encoding 'utf8mb4'", "utf-8"]),
    ({"encoding": "base64"}, ["unknown encoding"]),
    ({"text": "{title"}, ["is not a template", "{title}"]),
    ({"text": "{} of {brand}"}, ["more than names in braces"]),
    ({"text": "{price:.2f}"}, ["more than names in braces"]),
    ({"text": "{{title}}"}, ["names no column"]),
    ({"text": []}, ["names no column", "a template such as"]),
    ({"positive": {"column": "event"}}, ["either values", "at_least"]),
    ({"positive": {"column": "event", "values": ["a"], "at_least": 1}}, ["either values", "at_least"]),
    ({"invalid": "ignore"}, ["'refuse' or 'drop'"]),
    ({"scene": None}, ["Field required"]),
    ({"catalogue": "items.csv"}, ["Extra inputs are not permitted"]),
]


@pytest.mark.parametrize(("keys", "words"), BAD_KEYS, ids=[str(case[0]) for case in BAD_KEYS])
def test_a_wrong_key_is_refused_before_any_file_is_opened(keys: dict[str, Any], words: list[str]) -> None:
    """Found after an hour of reading, a misspelt zone costs the hour."""
    with pytest.raises(ValidationError) as caught:
        made(Path("/nowhere"), **keys)
    for word in words:
        assert word in str(caught.value)


def test_files_names_what_read_would_open_and_misses_what_is_not_there(shop: Write, tmp_path: Path) -> None:
    """Bytes that no fingerprint covers could change under a study."""
    (tmp_path / "users.csv").write_text("user_id,country\nu1,DE\n")
    section = shop(users="users.csv", scene="country")
    assert section.files() == [tmp_path / name for name in ("items.csv", "log.csv", "users.csv")]
    (tmp_path / "users.csv").unlink()
    with pytest.raises(InputError, match=r"data\.users: .*users\.csv does not exist; .* the study file's folder"):
        section.files()


def test_a_date_column_in_parquet_is_a_time(tmp_path: Path) -> None:
    """Most warehouses export times as timestamps, not numbers."""
    (tmp_path / "items.csv").write_text(ITEMS)
    moments = [datetime(2021, 7, 1, 12), datetime(2021, 7, 1, 13)]
    pl.DataFrame({"user_id": [1, 2], "item_id": [7, 8], "timestamp": moments}).write_parquet(tmp_path / "log.parquet")
    tables = made(tmp_path, interactions="log.parquet", timezone="Europe/Berlin").read()
    assert tables.interactions["time"].to_list() == [1625133600, 1625137200]
    assert not any("read as" in note for note in tables.notes)
