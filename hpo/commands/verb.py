"""Turn a function into a verb: one `error:` line and an exit code for failures, an example in its help."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import ParamSpec

import typer

from hpo.signals import interrupts
from storage.errors import ScenetuneError
from storage.files.outputs import write_failure
from studies.escaping import visible

P = ParamSpec("P")


@dataclass
class Settings:
    """The options that come before the verb.

    Attributes:
        debug: Show the traceback of an error.
    """

    debug: bool = False


settings = Settings()


def verb(example: str) -> Callable[[Callable[P, None]], Callable[P, None]]:
    """Decorate a function as a verb.

    Args:
        example: A command line; it becomes the end of the verb's help.

    Returns:
        A decorator. The decorated function prints one `error:` line for an exception and exits with its code.
    """

    def decorate(function: Callable[P, None]) -> Callable[P, None]:
        @functools.wraps(function)
        def guarded(*args: P.args, **kwargs: P.kwargs) -> None:
            try:
                function(*args, **kwargs)
            except KeyboardInterrupt:
                interrupts.end()
                typer.echo("interrupted; nothing finished is lost: run the same command again to resume", err=True)
                raise typer.Exit(130) from None
            except ScenetuneError as error:
                _fail(error, error.exit_code)
            except Exception as error:
                unexpected = f"{type(error).__name__}: {error}; hpo --debug shows where it happened"
                _fail(error, 1, write_failure(error) or unexpected)

        guarded.__doc__ = f"{function.__doc__}\n\n\b\nExample: {example}"
        return guarded

    return decorate


def _fail(error: Exception, code: int, text: str | None = None) -> None:
    if settings.debug:
        raise error
    typer.echo(f"error: {visible(' '.join((text or str(error)).split()))}", err=True)
    raise typer.Exit(code) from None
