"""Time columns as people store them, read into the seconds that Python's own datetime gives."""

from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any
from zoneinfo import ZoneInfo

import polars as pl
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from storage.errors import InputError
from studies.data.files.times import TICKS, Clock, check_format, tidy, to_seconds

moments = st.datetimes(datetime(1971, 1, 1), datetime(2037, 12, 31))
zones = st.sampled_from(["UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata", "Australia/Lord_Howe"])
offsets = st.integers(-14 * 60, 14 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))


def read(values: list[Any], clock: Clock | None = None, dtype: Any = None) -> list[int | None]:
    return to_seconds(tidy(pl.Series("t", values, dtype=dtype)), clock or Clock())[0].to_list()


def seconds(moment: datetime) -> int:
    return int((moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(seconds=1))


@settings(deadline=None)
@given(st.lists(moments, min_size=1, max_size=8), zones)
@example([datetime(2021, 3, 28, 2, 30), datetime(2021, 10, 31, 2, 30)], "Europe/Berlin")
@example([datetime(2021, 10, 3, 2, 15), datetime(2021, 4, 4, 1, 45)], "Australia/Lord_Howe")
def test_times_without_a_zone_are_local_times_of_the_zone_given(values: list[datetime], zone: str) -> None:
    """Read as UTC, a shop's evening would belong to the next day; at a change of clocks rows would vanish."""
    expected = [seconds(value.replace(tzinfo=ZoneInfo(zone))) for value in values]
    clock = Clock(zone=zone)
    assert read(values, clock, pl.Datetime("us")) == expected
    assert read([value.isoformat() for value in values], clock) == expected
    assert read([value.isoformat(" ") for value in values], clock) == expected
    form = "%d.%m.%Y %H:%M:%S"
    assert read([value.strftime(form) for value in values], Clock(format=form, zone=zone)) == expected


@settings(deadline=None)
@given(st.lists(st.tuples(moments, offsets), min_size=1, max_size=8), st.sampled_from(["T", " "]))
def test_every_row_may_have_a_zone_of_its_own(values: list[tuple[datetime, timezone]], separator: str) -> None:
    """One zone taken for the whole column would shift the other rows by hours."""
    aware = [moment.replace(tzinfo=zone) for moment, zone in values]
    assert read([moment.isoformat(separator) for moment in aware]) == [seconds(moment) for moment in aware]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2021-03-04", datetime(2021, 3, 4, tzinfo=UTC)),
        ("2021-03-04T10:20", datetime(2021, 3, 4, 10, 20, tzinfo=UTC)),
        ("2021-03-04 10:20:30.999999", datetime(2021, 3, 4, 10, 20, 30, tzinfo=UTC)),
        ("2021-03-04T10:20:30,5Z", datetime(2021, 3, 4, 10, 20, 30, tzinfo=UTC)),
        ("2021-03-04T10:20:30+02", datetime(2021, 3, 4, 8, 20, 30, tzinfo=UTC)),
        ("2021-03-04T10:20:30+0230", datetime(2021, 3, 4, 7, 50, 30, tzinfo=UTC)),
        ("2021-03-04 10:20:30 -02:30", datetime(2021, 3, 4, 12, 50, 30, tzinfo=UTC)),
        (" 2021-03-04 ", datetime(2021, 3, 4, tzinfo=UTC)),
    ],
)
def test_forms_of_iso_8601_are_read(text: str, expected: datetime) -> None:
    """Each is what some exporter writes; one form unread costs the user a conversion of the whole log."""
    assert read([text]) == [seconds(expected)]
    # Beside a time without a zone, which is read as the study file's zone says.
    mixed = read([text, "2021-07-01T00:00:00", None], Clock(zone="Asia/Tokyo"))
    assert mixed[1:] == [seconds(datetime(2021, 6, 30, 15, tzinfo=UTC)), None]


@pytest.mark.parametrize(
    "text", ["2021-13-01", "2021-02-30", "2021-03-04T25:00", "2021-03-04T10:00+25", "04.03.2021", "2021-03-04x", "soon"]
)
def test_what_is_no_time_becomes_null_and_nothing_else(text: str) -> None:
    """A wrong guess at a broken date is worse than an error: the row would move in time unnoticed."""
    assert read(["2021-03-04", text, "2021-03-05"]) == [1614816000, None, 1614902400]


@settings(deadline=None)
@given(
    st.lists(st.datetimes(datetime(1980, 1, 1), datetime(2035, 1, 1)), min_size=1, max_size=8),
    st.sampled_from([*TICKS]),
)
def test_epochs_are_read_in_any_unit_given_or_told_by_their_size(values: list[datetime], unit: str) -> None:
    """Milliseconds taken for seconds lie in the year 50000; split by time, all would fall in one part."""
    expected = [seconds(value.replace(tzinfo=UTC)) for value in values]
    ticks = [second * TICKS[unit] + TICKS[unit] // 2 for second in expected]
    for written in (ticks, [str(tick) for tick in ticks], [float(second * TICKS[unit]) for second in expected]):
        assert read(written) == expected
        assert read(written, Clock(unit=unit)) == expected


@pytest.mark.parametrize("unit", [*TICKS])
def test_numbers_of_another_unit_are_marked_where_the_unit_is_guessed(unit: str) -> None:
    """A log of two systems has seconds among milliseconds: read as one, half of a shop bought in January 1970."""
    others = [1_600_000_000 * TICKS[other] for other in TICKS if other != unit]
    column = [*[1_600_000_000 * TICKS[unit]] * 5, -1, None, *others]
    for series in (pl.Series("t", column), pl.Series("t", [None if x is None else str(x) for x in column])):
        times = to_seconds(series, Clock())
        assert times.foreign is not None
        assert times.foreign.to_list() == [False] * 7 + [True] * 3
        assert times.seconds[0] == 1_600_000_000
        assert to_seconds(series, Clock(unit=unit)).foreign is None


def test_a_guessed_unit_is_said_and_a_given_one_is_not() -> None:
    """A guess that nobody sees cannot be corrected."""
    column = pl.Series("t", [1_600_000_000_000])
    assert "milliseconds" in str(to_seconds(column, Clock()).notes)
    assert to_seconds(column, Clock(unit="ms")).notes == ()


def test_nanoseconds_keep_their_last_second() -> None:
    """As floats, 19 digits round up into the next second: order and duplicates would change."""
    assert read([1_599_999_999_999_999_999]) == read(["1599999999999999999"]) == [1_599_999_999]


@pytest.mark.parametrize("blank", ["", "  ", "nan", "NULL", "NaT", "\\N", None])
def test_what_stands_for_no_value_is_null_in_text(blank: str | None) -> None:
    """Called unreadable, a missing time would send the user after a format that does not exist."""
    assert tidy(pl.Series("t", ["1600000000", blank])).to_list() == ["1600000000", None]


def test_a_few_broken_values_do_not_change_how_the_rest_is_read() -> None:
    """One stray word must not turn a column of numbers into a column of broken dates."""
    assert read(["1600000000", "later", "1600000001.9", "inf"]) == [1600000000, None, 1600000001, None]
    assert read([1.6e9, float("nan"), float("inf")]) == [1600000000, None, None]
    assert read([1, 2**63], dtype=pl.UInt64, clock=Clock(unit="s"))[1] is None


def test_dates_and_datetimes_of_any_precision_are_read() -> None:
    """Parquet writers differ in precision and zone; the instant is what counts."""
    instant = datetime(2021, 3, 4, 10, tzinfo=UTC)
    for precision in ("ms", "us", "ns"):
        assert read([instant.replace(tzinfo=None)], dtype=pl.Datetime(precision)) == [seconds(instant)]
        zoned = pl.Series("t", [instant]).cast(pl.Datetime(precision, "UTC")).dt.convert_time_zone("Asia/Tokyo")
        assert to_seconds(zoned, Clock(zone="Europe/Berlin"))[0].to_list() == [seconds(instant)]
    midnight = datetime(2021, 3, 4, tzinfo=ZoneInfo("Asia/Tokyo"))
    assert read([date(2021, 3, 4), None], Clock(zone="Asia/Tokyo")) == [seconds(midnight), None]


@pytest.mark.parametrize("values", [[20240131, 20231224], ["20240131", "20231224"]])
def test_dates_written_as_one_number_are_refused_until_the_study_says_what_they_are(values: list[Any]) -> None:
    """As seconds they all lie within three weeks of 1970: a plausible log, and wrong."""
    with pytest.raises(InputError, match=r'"t" holds 20240131, which looks like a date.*time_format = "%Y%m%d"'):
        read(values)
    assert read(values, Clock(format="%Y%m%d"))[0] == seconds(datetime(2024, 1, 31, tzinfo=UTC))
    assert read([float(value) for value in values], Clock(format="%Y%m%d")) == read(values, Clock(format="%Y%m%d"))
    assert read(values, Clock(unit="s")) == [20240131, 20231224]


@pytest.mark.parametrize("column", [[True, False], [[1], [2]], [timedelta(1), timedelta(2)]])
def test_a_column_that_cannot_hold_times_is_refused_by_its_type(column: list[Any]) -> None:
    """True is not the first second of 1970."""
    with pytest.raises(InputError, match=r'data.time = "t" holds values of type \S.*name another column'):
        read(column)


def test_a_column_of_nothing_is_null_throughout() -> None:
    """It is for the caller to say which rows lack a time."""
    assert read([None, None]) == [None, None]
    assert read([]) == []
    assert read([], dtype=pl.String) == []
    assert read(["", "nan"]) == [None, None]


@pytest.mark.parametrize(
    "form", ["%Y-%m-%d", "%d/%m/%y %I:%M %p", "%d.%m.%Y %H:%M:%S.%f", "%b %d %Y", "%Y-%m-%d %z %H:%M"]
)
def test_formats_with_a_whole_date_are_accepted(form: str) -> None:
    """A format refused here could not be used at all."""
    check_format(form)


@pytest.mark.parametrize("form", ["", "yyyy-mm-dd", "%Y", "%H:%M", "%d %m", "%Q"])
def test_formats_without_a_whole_date_are_refused(form: str) -> None:
    """Found only while reading, every row would be called broken in place of the format."""
    with pytest.raises(ValueError, match="does not describe a date; accepted are strptime formats"):
        check_format(form)
