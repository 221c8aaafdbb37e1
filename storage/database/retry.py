"""Retries calls that a transient fault of the database interrupted, so that a worker survives the server's restart.

A whole call is retried, so it must be safe to repeat after an unacknowledged commit: the connection may break after the
server has committed and before its acknowledgement arrives. Which faults pass is decided by
`storage.database.connection.faults`.
"""

import functools
import logging
import threading
import time
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from tenacity import RetryCallState, Retrying, retry_if_exception, wait_random_exponential

from storage.database.connection.faults import Fault, fault_of, is_transient, message
from storage.errors import DatabaseFailed

P = ParamSpec("P")
R = TypeVar("R")

log = logging.getLogger(__name__)

# Long enough for a server's update or a failover; after that a person has to act.
RETRY_SECONDS = 600.0
_FIRST_WAIT_SECONDS = 0.05
_LONGEST_WAIT_SECONDS = 2.0
# Without a failed call for so long, the next one begins another outage.
_SAME_OUTAGE_SECONDS = 120.0


class _Call(threading.local):
    """The outermost retried call of this thread.

    Attributes:
        attempt: Number of the attempt, from 1; 0 while there is no such call.
        told: The fault that was logged last, as a cut connection may turn into a server that is read-only.
    """

    attempt = 0
    told: Fault | None = None


class _Outage:
    """The outage that this process is in, if any: its calls wait `RETRY_SECONDS` together, not each of them."""

    def __init__(self) -> None:
        self._since = self._latest = -_SAME_OUTAGE_SECONDS

    def seconds(self) -> float:
        """Note a failed call; return how long the outage has lasted."""
        now = time.monotonic()
        if now - self._latest > _SAME_OUTAGE_SECONDS:
            self._since = now
        self._latest = now
        return now - self._since

    def end(self) -> None:
        """Note a call that succeeded."""
        self._latest = -_SAME_OUTAGE_SECONDS


_call = _Call()
_outage = _Outage()
_repairs: list[Callable[[], object]] = []


def repair_with(function: Callable[[], object]) -> None:
    """Have a function called before each retry, such as one that starts the server again; it must not raise."""
    _repairs[:] = [function]


def repair() -> None:
    """Call the function that `repair_with` was given, if any."""
    for function in _repairs:
        function()


def retry_transient(function: Callable[P, R]) -> Callable[P, R]:
    """Retry a function that calls the database while a transient fault keeps it from succeeding.

    Of decorated functions that call each other, only the outermost is retried. The function must be safe to repeat
    after an unacknowledged commit; `retrying` tells it that there may have been one.

    Raises:
        DatabaseFailed: The fault lasted for `RETRY_SECONDS`, earlier calls of the same outage included, or is known not
            to pass by itself.
    """

    @functools.wraps(function)
    def retried(*args: P.args, **kwargs: P.kwargs) -> R:
        if _call.attempt:
            return function(*args, **kwargs)
        attempts = Retrying(
            retry=retry_if_exception(is_transient),
            # Random, so that the workers that lost the server together do not come back together.
            wait=wait_random_exponential(2 * _FIRST_WAIT_SECONDS, _LONGEST_WAIT_SECONDS, min=_FIRST_WAIT_SECONDS),
            stop=_has_lasted,
            before=_begin,
            before_sleep=_prepare_next,
            retry_error_callback=_give_up,
        )
        try:
            result = attempts(function, *args, **kwargs)
        except Exception as error:
            fault = fault_of(error)
            if fault is None or fault.passes:
                raise
            raise DatabaseFailed(f"the database refused ({message(error)}): {fault.remedy}") from error
        else:
            _outage.end()
            if retrying():
                log.info("the database is back")
            return result
        finally:
            _call.attempt, _call.told = 0, None

    return retried


def retrying() -> bool:
    """Tell whether this is a second or later attempt: an earlier one may have committed without acknowledgement."""
    return _call.attempt > 1


def _has_lasted(state: RetryCallState) -> bool:
    return max(_outage.seconds(), state.seconds_since_start or 0.0) >= RETRY_SECONDS


def _begin(state: RetryCallState) -> None:
    _call.attempt = state.attempt_number


def _prepare_next(state: RetryCallState) -> None:
    said, fault = _words(state)
    if fault is not _call.told:
        _call.told = fault
        log.warning("the database failed (%s): retrying for up to %.0f s; %s", said, RETRY_SECONDS, fault.remedy)
    repair()


def _give_up(state: RetryCallState) -> None:
    said, fault = _words(state)
    raise DatabaseFailed(
        f"the database has failed for {max(_outage.seconds(), state.seconds_since_start or 0.0):.0f} s ({said}): "
        f"{fault.remedy}; then run the same command again, which continues from here"
    ) from _error(state)


def _words(state: RetryCallState) -> tuple[str, Fault]:
    """Return the server's or the driver's message, and what is known of the fault."""
    error = _error(state)
    assert error is not None
    fault = fault_of(error)
    assert fault is not None
    return message(error), fault


def _error(state: RetryCallState) -> BaseException | None:
    return state.outcome.exception() if state.outcome else None
