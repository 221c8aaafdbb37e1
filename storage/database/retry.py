"""Retries calls that a transient fault of the database interrupted, so that a worker survives the server's restart.

A whole call is retried, so it must be safe to repeat after an unacknowledged commit: the connection may break after the
server has committed and before its acknowledgement arrives.
"""

import functools
import logging
import re
import threading
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import psycopg2
from sqlalchemy.exc import DBAPIError, PendingRollbackError
from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_delay, wait_random_exponential

from storage.database.urls import hide_password
from storage.errors import DatabaseUnreachable, ScenetuneError

P = ParamSpec("P")
R = TypeVar("R")

log = logging.getLogger(__name__)

# Long enough for a server's update or a failover; after that a person has to act.
RETRY_SECONDS = 600.0
_FIRST_WAIT_SECONDS = 0.05
_LONGEST_WAIT_SECONDS = 2.0
# Lost connections; serialization, deadlock; too many clients; shutdown, crash, starting up; cut for being idle.
_TRANSIENT_SQLSTATES = ("08", "40001", "40P01", "53300", "57P01", "57P02", "57P03", "57P05", "25P03")
# Messages of a failed connection that a retry cannot mend; such an error has no SQLSTATE. All others are transient: a
# refused connection, a name that is not found, a server that starts up.
_PERMANENT_REFUSALS = re.compile(
    r"authentication failed|no password supplied|pg_hba\.conf|certificate|not permitted to log in"
    r'|(?:role|user|database) ".*" does not exist|permission denied for database|does not support SSL',
)


class _Call(threading.local):
    """The outermost retried call of this thread.

    Attributes:
        attempt: Number of the attempt, from 1; 0 while there is no such call.
    """

    attempt = 0


_call = _Call()


def retry_transient(function: Callable[P, R]) -> Callable[P, R]:
    """Retry a function that calls the database while a transient fault keeps it from succeeding.

    Of decorated functions that call each other, only the outermost is retried. The function must be safe to repeat
    after an unacknowledged commit; `retrying` tells it that there may have been one.

    Raises:
        DatabaseUnreachable: The fault lasted for `RETRY_SECONDS`.
    """

    @functools.wraps(function)
    def retried(*args: P.args, **kwargs: P.kwargs) -> R:
        if _call.attempt:
            return function(*args, **kwargs)
        attempts = Retrying(
            retry=retry_if_exception(is_transient),
            # Random, so that the workers that lost the server together do not come back together.
            wait=wait_random_exponential(2 * _FIRST_WAIT_SECONDS, _LONGEST_WAIT_SECONDS, min=_FIRST_WAIT_SECONDS),
            stop=stop_after_delay(RETRY_SECONDS),
            before=_begin,
            before_sleep=_announce,
            retry_error_callback=_give_up,
        )
        try:
            result = attempts(function, *args, **kwargs)
            if retrying():
                log.info("the database is back")
            return result
        finally:
            _call.attempt = 0

    return retried


def retrying() -> bool:
    """Tell whether this is a second or later attempt: an earlier one may have committed without acknowledgement."""
    return _call.attempt > 1


def is_transient(error: BaseException) -> bool:
    """Tell whether an exception is, or was raised from, a transient fault of the database."""
    fault = _fault(error)
    driver = fault.orig if isinstance(fault, DBAPIError) else fault
    if not isinstance(driver, psycopg2.Error):
        return False
    if driver.pgcode is not None:
        return bool(driver.pgcode.startswith(_TRANSIENT_SQLSTATES))
    if isinstance(fault, DBAPIError) and fault.connection_invalidated:
        return True
    if isinstance(driver, psycopg2.InterfaceError):
        return "closed" in str(driver)
    return isinstance(driver, psycopg2.OperationalError) and not _PERMANENT_REFUSALS.search(str(driver))


def _fault(error: BaseException | None) -> BaseException | None:
    """Return the database's error that an exception was raised from, if there is one."""
    while error is not None and not isinstance(error, DBAPIError | psycopg2.Error):
        if isinstance(error, ScenetuneError):
            return None  # raised after the retries had ended
        # SQLAlchemy's complaint about a session that was used after a fault.
        error = error.__context__ if isinstance(error, PendingRollbackError) else error.__cause__
    return error


def _begin(state: RetryCallState) -> None:
    _call.attempt = state.attempt_number


def _announce(state: RetryCallState) -> None:
    if state.attempt_number == 1:
        log.warning("the database failed (%s): retrying for up to %.0f s", _message(state), RETRY_SECONDS)


def _give_up(state: RetryCallState) -> None:
    raise DatabaseUnreachable(
        f"the database has failed for {state.seconds_since_start or 0:.0f} s ({_message(state)}): check that it runs, "
        "with psql or hpo db up, then run the same command again, which continues from here"
    ) from _error(state)


def _error(state: RetryCallState) -> BaseException | None:
    return state.outcome.exception() if state.outcome else None


def _message(state: RetryCallState) -> str:
    """Return the server's or the driver's message on one line."""
    fault = _fault(_error(state))
    return hide_password(" ".join(str(fault.orig if isinstance(fault, DBAPIError) else fault).split()))
