"""Errors for users, raised anywhere below the command line and shown there as one line."""

import json


class ScenetuneError(Exception):
    """An expected failure: read the message, it says what to do. Shown as one `error:` line, no traceback."""

    exit_code = 1


class InputError(ScenetuneError):
    """The input is at fault: the message says what was received, what is accepted and what to do next."""

    exit_code = 2


class DatabaseUnreachable(InputError):
    """PostgreSQL did not answer a first connection: check that the server runs and that the URL names it."""


class DatabaseFailed(ScenetuneError):
    """PostgreSQL failed for longer than calls are retried, or in a way that does not pass: the message has a remedy."""


class StudyGone(InputError, KeyError):
    """Optuna's part of a study was deleted while a program used it; Optuna's own functions expect a KeyError."""

    __str__ = Exception.__str__


class LockLost(ScenetuneError):
    """A lock was lost with its connection before its holder was done: another process may have held it too."""


class EmbeddedServerError(ScenetuneError):
    """The embedded PostgreSQL did not start: the message holds the end of its log and where the log is."""


class CorruptArtifact(InputError):
    """A saved file is missing, truncated, altered or of another version: make it again or restore a copy."""


class ArtifactsUnavailable(ScenetuneError):
    """Artifacts cannot be written or read for now: free space or repair the store, then run the same command again."""


class OutOfMemory(ScenetuneError):
    """Memory ran out although the work was divided as far as possible: make it smaller or run fewer workers."""


class StudyStopped(ScenetuneError):
    """The study was stopped on request: `hpo resume NAME` continues it."""

    exit_code = 130


def quoted(value: str, longest: int = 60) -> str:
    """Return a value of the user's in quotes, in one line and of a bounded length, for a message."""
    return json.dumps(value if len(value) <= longest else f"{value[: longest - 1]}…", ensure_ascii=False)
