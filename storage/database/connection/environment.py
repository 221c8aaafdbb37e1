"""Removes libpq's variables from the environment of a process that uses the embedded server."""

import os


def ignore_libpq_variables() -> None:
    """Remove every PG… variable from this process's environment, and so from its workers'.

    They describe somebody's other server. Most can be overridden for a connection, but `PGSERVICE` cannot, and a new
    version of libpq may read further ones.
    """
    for name in [name for name in os.environ if name.startswith("PG")]:
        del os.environ[name]
