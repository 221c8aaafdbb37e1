"""Sorts the database's faults into those that pass by themselves and those that do not, each with its remedy.

`storage.database.retry` retries what passes; a user reads the remedy of either kind. A statement's fault is sorted by
its SQLSTATE. That of a connection which was refused has none in libpq, so it is sorted by its message.
"""

import re
from typing import NamedTuple

import psycopg2
from psycopg2.errors import ReadOnlySqlTransaction
from sqlalchemy.exc import DBAPIError, PendingRollbackError

from storage.database.urls import hide_password
from storage.errors import ScenetuneError


class Fault(NamedTuple):
    """What is known of a fault.

    Attributes:
        passes: Whether it may pass without a change of the program or of its settings.
        remedy: What a person can do about it.
    """

    passes: bool
    remedy: str


_CONNECTION = Fault(True, "check the URL with psql, and that its server runs; hpo db up starts the embedded one")
_READ_ONLY = Fault(
    True,
    "studies are written to, and this server is read-only: name the primary (in a URL of several hosts with "
    "target_session_attrs=read-write), or turn default_transaction_read_only off",
)
_TIME_LIMIT = Fault(
    True,
    "an administrator or a time limit ended it: raise statement_timeout, lock_timeout, transaction_timeout and "
    "idle_in_transaction_session_timeout of the role, the database or the pooler",
)
_CONFLICT = Fault(True, "look into the server's log for what conflicts with it")
_RESOURCES = Fault(True, "free memory or disk space on the server")
_CONNECTIONS = Fault(
    True,
    "end programs that use the database, run fewer workers, or raise max_connections of the server or the CONNECTION "
    "LIMIT of the role or the database",
)
_LIMIT = Fault(False, "raise the limit of the server that the message names, such as temp_file_limit")
_STATE = Fault(False, "an administrator has to put the server or the object into the state that the message asks for")
_DROPPED = Fault(False, "the database was dropped: name another one, into which hpo db restore FILE restores a backup")
_REFUSED = Fault(False, "check the URL, its user and its options with psql")
_PROGRAM = Fault(False, "this is a fault of scenetune: please report it with the output of hpo --debug")

# All SQLSTATEs of classes 08, 25, 40, 53, 55 and 57 (PostgreSQL 18, appendix A). Of a code that a later version adds,
# the first one of its class holds.
FAULTS = {
    "08000": _CONNECTION,  # connection_exception
    "08001": _CONNECTION,  # sqlclient_unable_to_establish_sqlconnection
    "08003": _CONNECTION,  # connection_does_not_exist
    "08004": _CONNECTION,  # sqlserver_rejected_establishment_of_sqlconnection
    "08006": _CONNECTION,  # connection_failure
    "08007": _CONNECTION,  # transaction_resolution_unknown
    "08P01": _CONNECTION,  # protocol_violation; PgBouncer reports its own faults with it
    "25000": _PROGRAM,  # invalid_transaction_state
    "25001": _PROGRAM,  # active_sql_transaction
    "25002": _PROGRAM,  # branch_transaction_already_active
    "25003": _PROGRAM,  # inappropriate_access_mode_for_branch_transaction
    "25004": _PROGRAM,  # inappropriate_isolation_level_for_branch_transaction
    "25005": _PROGRAM,  # no_active_sql_transaction_for_branch_transaction
    "25006": _READ_ONLY,  # read_only_sql_transaction
    "25007": _PROGRAM,  # schema_and_data_statement_mixing_not_supported
    "25008": _PROGRAM,  # held_cursor_requires_same_isolation_level
    "25P01": _PROGRAM,  # no_active_sql_transaction
    "25P02": _PROGRAM,  # in_failed_sql_transaction
    "25P03": _TIME_LIMIT,  # idle_in_transaction_session_timeout
    "25P04": _TIME_LIMIT,  # transaction_timeout
    "40000": _CONFLICT,  # transaction_rollback
    "40001": _CONFLICT,  # serialization_failure
    "40002": _PROGRAM,  # transaction_integrity_constraint_violation
    "40003": _CONFLICT,  # statement_completion_unknown
    "40P01": _CONFLICT,  # deadlock_detected
    "53000": _RESOURCES,  # insufficient_resources
    "53100": _RESOURCES,  # disk_full
    "53200": _RESOURCES,  # out_of_memory
    "53300": _CONNECTIONS,  # too_many_connections
    "53400": _LIMIT,  # configuration_limit_exceeded
    "55000": _STATE,  # object_not_in_prerequisite_state
    "55006": _STATE,  # object_in_use
    "55P02": _STATE,  # cant_change_runtime_param
    "55P03": _TIME_LIMIT,  # lock_not_available
    "55P04": _PROGRAM,  # unsafe_new_enum_value_usage
    "57000": _CONNECTION,  # operator_intervention
    "57014": _TIME_LIMIT,  # query_canceled
    "57P01": _CONNECTION,  # admin_shutdown
    "57P02": _CONNECTION,  # crash_shutdown
    "57P03": _CONNECTION,  # cannot_connect_now
    "57P04": _DROPPED,  # database_dropped
    "57P05": _TIME_LIMIT,  # idle_session_timeout
}
# A refused connection, by the first pattern that its message matches; any other passes, such as a name that is not
# found or a server that starts up.
_REFUSALS = (
    (r"too many (?:clients|connections)|connection slots are reserved|no more connections allowed", _CONNECTIONS),
    (r"session is read-only|server is in hot standby mode", _READ_ONLY),
    (r"authentication failed|no password supplied|pg_hba\.conf|certificate|does not support SSL", _REFUSED),
    (r"not permitted to log in|permission denied (?:for database|to set parameter)", _REFUSED),
    (r'(?:role|user|database) ".*" does not exist|definition of service ".*" not found', _REFUSED),
    (r"unrecognized configuration parameter|invalid value for parameter|cannot be (?:changed|set)", _REFUSED),
)


def fault_of(error: BaseException) -> Fault | None:
    """Return what is known of the database's fault that an exception is, or was raised from; None of all others."""
    cause = _cause(error)
    driver = cause.orig if isinstance(cause, DBAPIError) else cause
    if not isinstance(driver, psycopg2.Error):
        return None
    if isinstance(driver, ReadOnlySqlTransaction):
        return _READ_ONLY  # without a code from `session.refuse_read_only`
    if driver.pgcode is not None:
        return FAULTS.get(driver.pgcode) or FAULTS.get(f"{driver.pgcode[:2]}000")
    if isinstance(cause, DBAPIError) and cause.connection_invalidated:
        return _CONNECTION
    if isinstance(driver, psycopg2.InterfaceError):
        return _CONNECTION if "closed" in str(driver) else None
    if not isinstance(driver, psycopg2.OperationalError):
        return None
    found = (fault for pattern, fault in _REFUSALS if re.search(pattern, str(driver)))
    return next(found, _CONNECTION)


def is_transient(error: BaseException) -> bool:
    """Tell whether an exception is, or was raised from, a fault of the database that may pass by itself."""
    fault = fault_of(error)
    return fault is not None and fault.passes


def message(error: BaseException) -> str:
    """Return the server's or the driver's message on one line, without a password."""
    cause = _cause(error) or error
    return hide_password(" ".join(str(cause.orig if isinstance(cause, DBAPIError) else cause).split()))


def _cause(error: BaseException | None) -> BaseException | None:
    """Return the database's error that an exception was raised from, if there is one."""
    while error is not None and not isinstance(error, DBAPIError | psycopg2.Error):
        if isinstance(error, ScenetuneError):
            return None  # raised after the retries had ended
        # SQLAlchemy's complaint about a session that was used after a fault.
        error = error.__context__ if isinstance(error, PendingRollbackError) else error.__cause__
    return error
