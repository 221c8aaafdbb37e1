"""Faults of the database that pass by themselves are waited for: a worker outlives the server's restart.

What is repeated is a whole call, so a call must bear being repeated after it succeeded unheard: the connection may
break between the server's commit and its acknowledgement.
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

# Long enough for a server's update or a failover; then a person is needed.
RETRY_SECONDS = 600.0
_FIRST_WAIT_SECONDS = 0.05
_LONGEST_WAIT_SECONDS = 2.0
# Lost connections; serialization, deadlock; too many clients; shutdown, crash, starting up; cut for being idle.
_PASSING_STATES = ("08", "40001", "40P01", "53300", "57P01", "57P02", "57P03", "57P05", "25P03")
# Nobody was connected yet, so there is no SQLSTATE, only words. What is not among these, such as a refused connection,
# a name that is not found or a server that starts up, passes.
_REFUSALS = re.compile(
    r"authentication failed|no password supplied|pg_hba\.conf|certificate|not permitted to log in"
    r'|(?:role|user|database) ".*" does not exist|permission denied for database|does not support SSL',
)


class _Call(threading.local):
    """The outermost patient call of this thread.

    Attributes:
        attempt: From 1; 0 while there is no such call.
    """

    attempt = 0


_call = _Call()


def retry_transient(function: Callable[P, R]) -> Callable[P, R]:
    """Make a function that talks to the database be repeated while a passing fault keeps it from succeeding.

    Of patient functions that call each other, the outermost alone repeats. The function bears being repeated after it
    succeeded unheard; `retrying` tells it that this may be so.

    Raises:
        DatabaseUnreachable: The fault lasted for `RETRY_SECONDS`.
    """

    @functools.wraps(function)
    def patient(*args: P.args, **kwargs: P.kwargs) -> R:
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

    return patient


def retrying() -> bool:
    """Tell whether this is not the first attempt: an earlier one may have succeeded without our hearing of it."""
    return _call.attempt > 1


def is_transient(error: BaseException) -> bool:
    """Tell whether a failure is a passing fault of the database, whoever has wrapped it meanwhile."""
    fault = _fault(error)
    driver = fault.orig if isinstance(fault, DBAPIError) else fault
    if not isinstance(driver, psycopg2.Error):
        return False
    if driver.pgcode is not None:
        return bool(driver.pgcode.startswith(_PASSING_STATES))
    if isinstance(fault, DBAPIError) and fault.connection_invalidated:
        return True
    if isinstance(driver, psycopg2.InterfaceError):
        return "closed" in str(driver)
    return isinstance(driver, psycopg2.OperationalError) and not _REFUSALS.search(str(driver))


def _fault(error: BaseException | None) -> BaseException | None:
    """Return the error of the database that lies under an exception, if one does."""
    while error is not None and not isinstance(error, DBAPIError | psycopg2.Error):
        if isinstance(error, ScenetuneError):
            # Its words are for a person: whoever raised it has given up.
            return None
        # A session that is used on after a fault complains about just that.
        error = error.__context__ if isinstance(error, PendingRollbackError) else error.__cause__
    return error


def _begin(state: RetryCallState) -> None:
    _call.attempt = state.attempt_number


def _announce(state: RetryCallState) -> None:
    if state.attempt_number == 1:
        log.warning("the database failed (%s): trying again for up to %.0f s", _words(state), RETRY_SECONDS)


def _give_up(state: RetryCallState) -> None:
    raise DatabaseUnreachable(
        f"the database has failed for {state.seconds_since_start or 0:.0f} s ({_words(state)}): see that it runs, "
        "with psql or hpo db up, then run the same command again, which goes on from here"
    ) from _error(state)


def _error(state: RetryCallState) -> BaseException | None:
    return state.outcome.exception() if state.outcome else None


def _words(state: RetryCallState) -> str:
    """Return the server's or the driver's words on one line."""
    fault = _fault(_error(state))
    return hide_password(" ".join(str(fault.orig if isinstance(fault, DBAPIError) else fault).split()))
