"""Our sessions on the server: no time limits, a word about a server that stays silent, and none that is read-only."""

import logging
import threading
from typing import Any

import psycopg2.extensions
import sqlalchemy as sa
from psycopg2.errors import ReadOnlySqlTransaction

log = logging.getLogger(__name__)

# From an accepted connection to the answer to its first statement; a server needs milliseconds.
SILENCE_SECONDS = 10.0
# What the role or the database sets would end waits for a lock; what the URL sets holds. As pg_dump does. By a
# statement, as PgBouncer refuses unknown names in the `options` of a new connection.
_NO_TIME_LIMITS = """
    SELECT set_config(name, '0', false) FROM pg_settings WHERE setting <> '0' AND source <> 'client' AND name IN
    ('statement_timeout', 'lock_timeout', 'idle_in_transaction_session_timeout', 'idle_session_timeout',
     'transaction_timeout')
"""


def open_session(*arguments: Any, **named: Any) -> Any:
    """Return a connection without the time limits that a role or a database has for interactive use.

    It is psycopg2's `connection_factory`, and takes the arguments of a connection.
    """
    connection = psycopg2.extensions.connection(*arguments, **named)
    silence = threading.Timer(SILENCE_SECONDS, _report_silence)
    silence.daemon = True
    silence.start()
    try:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(_NO_TIME_LIMITS)
        connection.autocommit = False
        if not silence.is_alive():
            log.info("the database answers")
    finally:
        silence.cancel()
    return connection


def drop_when_read_only(engine: sa.Engine) -> None:
    """Let an engine give up its connections once one of them turns out to be read-only.

    After a failover they lead to the old primary, and a session keeps the default that it began with: only a new
    connection can write again.
    """

    @sa.event.listens_for(engine, "handle_error")
    def _(context: sa.engine.ExceptionContext) -> None:
        if isinstance(context.original_exception, ReadOnlySqlTransaction):
            context.is_disconnect = True


def refuse_read_only(connection: sa.Connection) -> None:
    """Refuse a session that can only read: on a standby, or by a default of the server, the database or the role.

    Raises:
        ReadOnlySqlTransaction: As the server would raise it at the first write, with the reason.
    """
    query = "SELECT pg_is_in_recovery(), current_setting('transaction_read_only')::boolean"
    standby, read_only = connection.execute(sa.text(query)).one()
    if read_only:
        raise ReadOnlySqlTransaction("it is a standby" if standby else "default_transaction_read_only is on")


def _report_silence() -> None:
    log.warning(
        "the database accepted a connection and has not answered for %.0f s: a pooler such as PgBouncer waits for a "
        "free connection to its server; give it more (default_pool_size, max_db_connections), or run fewer workers",
        SILENCE_SECONDS,
    )
