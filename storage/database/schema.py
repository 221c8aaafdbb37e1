"""The schema of all tables, Optuna's and ours: the first of the connection's search path, in a database in UTF8."""

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg2
import sqlalchemy as sa
from psycopg2.errors import InsufficientPrivilege
from sqlalchemy.exc import DBAPIError

from storage.database.connection.faults import message
from storage.database.urls import hide_password
from storage.errors import InputError


@contextmanager
def missing_rights_explained(url: str) -> Iterator[None]:
    """Turn the server's refusal of a statement in the block into an error that says what to grant."""
    try:
        yield
    except (DBAPIError, psycopg2.Error) as error:
        driver = error.orig if isinstance(error, DBAPIError) else error
        if not isinstance(driver, InsufficientPrivilege):
            raise
        raise _missing_right(driver, url) from error


def explain_missing_rights(engine: sa.Engine, url: str) -> None:
    """Do so for all statements of an engine from now on, Optuna's among them."""

    @sa.event.listens_for(engine, "handle_error")
    def explain(context: sa.engine.ExceptionContext) -> None:
        if isinstance(context.original_exception, InsufficientPrivilege):
            raise _missing_right(context.original_exception, url) from context.original_exception


def _missing_right(error: BaseException, url: str) -> InputError:
    return InputError(
        f"the user of {hide_password(url)} lacks a right ({message(error)}): grant it CREATE on the schema, or, if "
        "scenetune's and Optuna's tables are there, all rights on these and on their sequences"
    )


def only_first_schema(connection: sa.Connection, url: str) -> list[str]:
    """Restrict a transaction to the first schema of the search path: what lies further down is somebody else's.

    Returns:
        The path as it is without the restriction: the schemas that exist and that the user may use, never none.

    Raises:
        InputError: There is no such schema, or the database has another encoding than UTF8.
    """
    server = "SELECT current_setting('server_encoding'), current_schemas(false)::text[], current_setting('search_path')"
    encoding, path, named = connection.execute(sa.text(server)).one()
    if encoding != "UTF8":
        raise InputError(
            f"database {hide_password(url)} has the encoding {encoding}, which does not hold the names of all scenes "
            "and studies; UTF8 is needed: CREATE DATABASE name ENCODING 'UTF8' TEMPLATE template0, then name that one"
        )
    if not path:
        raise InputError(
            f"database {hide_password(url)} has no schema for the tables: of its search path ({named}) none exists "
            "that this user may use; create one with CREATE SCHEMA, grant USAGE on it, or name another in the URL "
            "with ?options=-csearch_path%3DNAME"
        )
    only = sa.func.set_config("search_path", sa.func.quote_ident(path[0]), True)
    connection.execute(sa.select(only))
    return list(path)
