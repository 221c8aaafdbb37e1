"""Database URLs: one normal form, and never a password on a screen."""

import re

from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from storage.errors import InputError

DRIVER = "postgresql+psycopg2"
_ACCEPTED = "accepted is postgresql://user:password@host:5432/database, percent-encoded where needed"


def normalise_url(url: str) -> str:
    """Return a PostgreSQL URL in the one form used internally, `postgresql+psycopg2://`, with its parameters.

    Raises:
        InputError: It is not the URL of a PostgreSQL database.
    """
    try:
        parsed = make_url(url.strip())
    except (ArgumentError, ValueError) as error:
        raise InputError(f"database URL {hide_password(url)!r} cannot be read: {_ACCEPTED}") from error
    if parsed.drivername not in ("postgres", "postgresql", DRIVER):
        raise InputError(f"database URL {hide_password(url)!r} is not for PostgreSQL: {_ACCEPTED}")
    if "@" in (parsed.host or ""):
        # The rest of the password would be taken for the host, and shown as one when it is not found.
        raise InputError(f"database URL {hide_password(url)!r} has two @: write %40 for one in a password")
    # SQLAlchemy leaves spaces as they are, and one at the end would be lost when the URL is read again.
    return parsed.set(drivername=DRIVER).render_as_string(hide_password=False).replace(" ", "%20")


def hide_password(url: str) -> str:
    """Return a text with every possible password masked; it need not be a valid URL.

    It hides too much rather than show a character of a password that was not percent-encoded.
    """
    hidden = re.sub(r"(password\s*=)[^&]*", r"\1***", url, flags=re.IGNORECASE)
    with_user = re.sub(r"^([^:]*://[^:]*:|[^:/]*:(?!//)).*@", r"\1***@", hidden, flags=re.DOTALL)
    if with_user != hidden:
        return with_user
    # No host after a colon, and no number: perhaps a password whose `@host` was forgotten.
    return re.sub(r"(://[^:]*:)(?!\d*(?:[/?]|$)).*", r"\1***", hidden, flags=re.DOTALL)
