"""Whatever a study file or a table holds, it is read or refused in one line. FUZZ_EXAMPLES sets how many are tried."""

import copy
import os
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from storage.errors import InputError
from studies.config.spec import load_spec, parse_spec
from studies.data.coding import build_dataset
from studies.data.files.source import Files

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "25"))
fuzz = settings(deadline=None, max_examples=EXAMPLES, suppress_health_check=list(HealthCheck))

QUICKSTART = Path("studies/quickstart.toml").read_text(encoding="utf-8")
OWN_FILES = """
name = "shop"
[data]
source = "files"
interactions = "log.csv"
items = ["items.csv"]
users = "users"
scene = "category"
text = "{title} by {brand}"
positive = { column = "event", values = ["buy", 1, true] }
time_unit = "ms"
timezone = "Europe/Berlin"
[search.space]
inner_lr = { low = 1e-3, high = 0.1, log = true }
learner = ["maml", "protonet"]
"""
WHOLE = [
    parse_spec({"name": "a", "data": {"source": "completejourney"}}).model_dump(mode="json"),
    parse_spec(
        {"name": "a", "data": {"source": "files", "interactions": "l.csv", "scene": "s", "text": ["t"]}}
    ).model_dump(mode="json"),
]

scalars = st.one_of(
    st.booleans(),
    st.integers(),
    st.sampled_from([0, -1, 10**9, 10**30, 2**63, 1e308, 5e-324, "", "a" * 300, "\n", "`", "../x", "\ud800", "\0"]),
    st.floats(),
    st.text(max_size=8),
    st.dates(),
    st.datetimes(),
    st.times(),
)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["low", "high", "log", "column", "values", "a", ""]), inner, max_size=3)
    ),
    max_leaves=6,
)


def places(table: dict[str, Any], above: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """The path of every key."""
    inner = [path for key, value in table.items() if isinstance(value, dict) for path in places(value, (*above, key))]
    return [*((*above, key) for key in table), *inner]


def one_line(error: BaseException) -> None:
    message = str(error)
    assert message
    assert "\n" not in message, message
    message.encode()


@fuzz
@given(st.data())
def test_a_study_file_of_any_values_is_read_or_refused_in_one_line(data: st.DataObject) -> None:
    """A traceback names a line of ours; the user needs one of theirs."""
    raw = copy.deepcopy(data.draw(st.sampled_from(WHOLE)))
    for _ in range(data.draw(st.integers(1, 3))):
        *above, key = data.draw(st.sampled_from(places(raw)))
        table: Any = raw
        for step in above:
            table = table[step] if isinstance(table, dict) and step in table else {}
        if not isinstance(table, dict):
            continue
        if (what := data.draw(st.sampled_from(["set", "set", "remove", "rename"]))) == "set":
            table[key] = data.draw(values)
        else:
            value = table.pop(key, None)
            if what == "rename":
                table[data.draw(st.text(max_size=6))] = value
    try:
        spec = parse_spec(raw)
    except InputError as error:
        one_line(error)
    else:
        again = parse_spec(spec.model_dump(mode="json"))
        assert again.identity() == spec.identity()


def damaged(draw: Any, content: bytes, pieces: list[bytes]) -> bytes:
    """Some bytes cut out, repeated, or replaced by pieces that mean something."""
    for _ in range(draw(st.integers(0, 4))):
        start = draw(st.integers(0, len(content)))
        end = draw(st.integers(start, min(len(content), start + 30)))
        piece = draw(st.one_of(st.sampled_from(pieces), st.binary(max_size=4), st.just(content[start:end] * 2)))
        content = content[:start] + piece + content[end:]
    return content


TOML_PIECES = [
    b"",
    b"[",
    b"]",
    b"[[",
    b'"""',
    b"'",
    b"=",
    b"\n",
    b"{",
    b"}",
    b"#",
    b"\xff",
    b"nan",
    b"1e999",
    b"\0",
    b"=" + b"[" * 3000,
]


@fuzz
@given(st.data())
def test_a_damaged_study_file_is_read_or_refused_in_one_line(data: st.DataObject) -> None:
    """Editors, mails and merges damage files."""
    text = data.draw(st.sampled_from([QUICKSTART, OWN_FILES]))
    with tempfile.TemporaryDirectory() as name:
        path = Path(name, "study.toml")
        path.write_bytes(damaged(data.draw, text.encode(), TOML_PIECES))
        try:
            load_spec(path)
        except InputError as error:
            one_line(error)


LOG = (
    "user_id,item_id,timestamp,event,rating,store\nu1,7,1600000000,buy,4.5,north\nu2,8,1600000100,view,,south\n"
    'u1,8.0,1600000200,buy,1,\n"u3",007,1600000300,"b""uy",nan,"a, b"\n'
)
ITEMS = 'item_id,category,title,brand\n7,tea,"green, ""fine"" tea",Acme\n8,cups,"a mug,\nin two lines",\n9,tea,,\n'
CSV_PIECES = [
    *(sign.encode() for sign in ["", '"', '""', '\\"', "\\", ",", ";", "\t", "\n", "\r", "\r\n", "\n\n", "\0", " "]),
    *(b"\xff", b"\xc3", b"sep=;\n", b"\xef\xbb\xbf", b"\xff\xfe", b"#end", b"NULL", b"nan", b"1e400", b"-1", b"1e+300"),
    *(word.encode() for word in ["\u00a0", "é", "e\u0301", "１７", "9" * 25, "00017", "1600000000000", "2020-01-01"]),
    *(b"item_id", b"#user", b"2020-13-45T99:99", b"x" * 70_000, b'"' + b"y\n" * 99, b"u1,7,1600000000,buy,1,n\n" * 300),
]
# Of each key the usual value and others.
KEYS: dict[str, list[Any]] = {
    "delimiter": [None, ",", ";", "\t", "\\", "\0", "x"],
    "encoding": [None, "utf-8", "latin-1", "utf-16", "utf-16-le", "utf-32", "utf-7", "cp1252", "ascii", "idna"],
    "text": ["title", ["title", "brand"], "{title} by {brand}", "{title}{title}{{}}", "category"],
    "scene": ["category", "store", "user_id", "item_id", "timestamp", "event"],
    "item": ["item_id", "event"],
    "time": ["timestamp", "rating", "user_id", "item_id"],
    "positive": [
        None,
        {"column": "event", "values": ["buy"]},
        {"column": "rating", "at_least": 1},
        {"column": "rating", "values": [1, 4.5, True]},
    ],
    "time_unit": [None, "s", "ms", "ns"],
    "time_format": [None, "%Y-%m-%d", "%Y%m%d", "%d.%m.%y"],
    "timezone": ["UTC", "Europe/Berlin", "Asia/Kathmandu"],
    "invalid": ["drop", "refuse"],
    "items": ["items.csv", None],
}


@fuzz
@given(st.data())
def test_a_damaged_table_is_read_with_every_row_counted_or_refused_in_one_line(data: st.DataObject) -> None:
    """Lost without a count, rows are lost without a word."""
    keys = {key: choices[0] for key, choices in KEYS.items()}
    for key in data.draw(st.lists(st.sampled_from([*KEYS]), max_size=2, unique=True)):
        keys[key] = data.draw(st.sampled_from(KEYS[key]))
    suffix = data.draw(st.sampled_from(["csv", "csv", "inter"]))
    log, items = LOG, ITEMS
    if suffix == "inter":
        log, keys["items"] = LOG.replace(",", "\t"), None
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / f"log.{suffix}").write_bytes(damaged(data.draw, log.encode(), CSV_PIECES))
        (folder / "items.csv").write_bytes(damaged(data.draw, items.encode(), CSV_PIECES))
        named = {"source": "files", "interactions": f"log.{suffix}", **keys}
        wanted = {key: value for key, value in named.items() if value is not None}
        try:
            section = Files.model_validate(wanted, context={"folder": folder})
        except ValidationError:
            return
        try:
            tables = section.read()
        except InputError as error:
            one_line(error)
            return
        assert tables.rows_read == len(tables.interactions) + sum(tables.dropped.values())
        made = build_dataset(tables)
        assert made.rows_read == len(made.time) + sum(made.dropped.values())
