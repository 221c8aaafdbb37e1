"""Database URLs: one form inside, no password outside."""

from urllib.parse import quote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from sqlalchemy import event
from sqlalchemy.engine import make_url
from sqlalchemy.exc import OperationalError

from storage.database.postgres import connect, create_engine
from storage.database.urls import hide_password, normalise_url
from storage.errors import DatabaseUnreachable, InputError

MARK = "Zq7"
text = st.text(st.characters(exclude_categories=("Cs",)), max_size=12)
passwords = text.map(lambda middle: f"{MARK}{middle}{MARK}")


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg2"])
def test_every_spelling_gets_the_one_driver_and_keeps_its_parameters(scheme: str) -> None:
    """SQLAlchemy 2.1 takes `postgresql://` for psycopg 3; a lost `sslmode` would send rows in the clear."""
    url = make_url(normalise_url(f" {scheme}://u:p%40ss@h:6543/d?sslmode=require&application_name=x\n"))
    assert url.drivername == "postgresql+psycopg2"
    assert (url.username, url.password, url.host, url.port, url.database) == ("u", "p@ss", "h", 6543, "d")
    assert dict(url.query) == {"sslmode": "require", "application_name": "x"}


def test_parameters_of_the_url_reach_the_driver_and_win() -> None:
    """A `sslrootcert` that is lost on the way leaves the server unchecked without a notice."""
    asked = {"sslmode": "verify-full", "sslrootcert": "/c/root.pem", "sslcert": "/c/me.pem", "sslkey": "/c/me key"}
    asked |= {"connect_timeout": "3", "keepalives_idle": "7"}
    given_to_driver: dict[str, object] = {}
    engine = create_engine("postgresql://u@h/d?" + "&".join(f"{key}={quote(asked[key])}" for key in asked))
    event.listen(engine, "do_connect", lambda dialect, record, args, parameters: given_to_driver.update(parameters))
    with pytest.raises(OperationalError):
        engine.connect()
    engine.dispose()
    assert given_to_driver | asked == given_to_driver
    assert given_to_driver["tcp_user_timeout"] == 30_000


@given(user=text, password=text, database=text, value=text)
@example(user="", password="", database=" ", value="")
def test_normalising_twice_changes_nothing(user: str, password: str, database: str, value: str) -> None:
    """URLs pass through several hands; one quoted twice would hold another password."""
    user, password, database, value = (quote(part, safe="") for part in (user, password, database, value))
    once = normalise_url(f"postgresql://{user}:{password}@host/{database}?application_name={value}")
    assert normalise_url(once) == once
    assert make_url(once).password == make_url(f"x://u:{password}@h").password


def test_other_databases_are_refused_with_the_accepted_form(subtests: pytest.Subtests) -> None:
    """SQLite would seem to work until two workers write at once."""
    for url in (
        "",
        "localhost",
        "sqlite:///x.db",
        "mysql://u:Zq7@h/d",
        "postgresql+psycopg://u:Zq7@h/d",
        "postgresql://u:Zq7",
    ):
        with subtests.test(msg=url):
            with pytest.raises(InputError, match="postgresql://user:password@host:5432/database") as caught:
                normalise_url(url)
            assert MARK not in str(caught.value)


def test_password_with_an_at_sign_is_refused_instead_of_shown_as_a_host() -> None:
    """The driver would report `could not translate host name "rest-of-the-password@host"`."""
    with pytest.raises(InputError, match="%40") as caught:
        normalise_url("postgresql://u:Zq7@Zq7@host/d")
    assert MARK not in str(caught.value)


@example(user="u", password=f"{MARK}@/:?#&{MARK}")
@example(user="name@server", password=MARK)
@given(user=text, password=passwords)
def test_no_password_is_ever_shown(user: str, password: str) -> None:
    """A password that a CI log shows once is known to all its readers."""
    encoded = quote(password, safe="")
    user = quote(user, safe="@")
    for url in (
        f"postgresql://{user}:{encoded}@host:5432/db?sslmode=require",
        f"postgresql://{user}:{password}@host/db",
        f"postgresql://{user}:{password}@",
        f"postgresql://{user}:{MARK}",
        f"{user}:{password}@host/db",
        f"postgresql://host/db?user={encoded[:0]}x&password={encoded}&sslmode=require",
        f"postgresql://{user}:{password}@host/db?PASSWORD={encoded}",
        f"host=h password='{MARK} {MARK}' dbname=d",
    ):
        assert MARK not in hide_password(url)


def test_url_without_a_password_is_shown_as_it_is() -> None:
    """A message that masks host and port does not help to find the mistake."""
    urls = [
        "postgresql://host:5432/db?sslmode=require",
        "postgresql://user@host/db",
        "postgresql+psycopg2://u@/d?host=%2Ft",
    ]
    assert [hide_password(url) for url in urls] == urls
    assert hide_password("postgresql://u:secret@h:1/d?a=b") == "postgresql://u:***@h:1/d?a=b"


def test_unreachable_server_is_named_without_the_password() -> None:
    """The driver's own error is 30 lines of traceback, and its URL may be logged with everything in it."""
    with pytest.raises(DatabaseUnreachable, match=r"postgresql\+psycopg2://u:\*\*\*@127.0.0.1:1/d") as caught:
        connect("postgres://u:Zq7@127.0.0.1:1/d")
    assert "check the URL with psql" in str(caught.value)
    assert MARK not in str(caught.value)
