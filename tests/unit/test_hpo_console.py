"""Progress as a person sees it: lines in a log file, a bar in a terminal of 80 columns, an honest end in both."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios

import pytest

ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
COLOUR = re.compile(r"\x1b\[[0-9;]*3[0-9](;[0-9]+)*m")
HEAD = """
import contextlib
from hpo.status import console
console.SECONDS_UNTIL_SHOWN = console.SECONDS_BETWEEN_LINES = 0
shown = console.Console()
"""
DONE = """
with shown.progress("encoding texts") as report:
    for done in range(1, 201):
        report(done, 200)
"""
STOPPED = """
with contextlib.suppress(KeyboardInterrupt), shown.progress("distilling, trial 10 of 12") as report:
    report(119_000, 600_000)
    report(120_000, 600_000)
    raise KeyboardInterrupt
"""
NESTED = """
with shown.progress("re-evaluating finalists") as outer:
    outer(1, 4)
    with shown.progress("sampling episodes") as inner:
        inner(1, 2)
        inner(2, 2)
    outer(4, 4)
"""


def in_log(body: str) -> list[str]:
    """What a log file gets."""
    done = subprocess.run([sys.executable, "-c", HEAD + body], capture_output=True, text=True, check=True)
    assert done.stdout == ""
    assert "\x1b" not in done.stderr
    return done.stderr.splitlines()


def in_terminal(body: str, **environment: str) -> str:
    """All that a terminal of 80 columns receives."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    plain = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "COLUMNS", "FORCE_COLOR")}
    process = subprocess.Popen(
        [sys.executable, "-c", HEAD + body],
        stderr=theirs,
        stdin=theirs,
        env=plain | {"TERM": "xterm-256color"} | environment,
    )
    os.close(theirs)
    received = b""
    while True:
        try:
            chunk = os.read(ours, 65536)
        except OSError:  # how Linux says that nobody writes any more
            break
        if not chunk:
            break
        received += chunk
    os.close(ours)
    assert process.wait() == 0, received.decode()
    return received.decode()


def lines(received: str) -> list[str]:
    """What was ever on a line, without control codes."""
    return [line.rstrip() for line in re.split(r"[\r\n]+", ESCAPE.sub("", received)) if line.strip()]


def test_a_log_file_hears_of_time_left_and_of_the_end() -> None:
    """Whoever reads the log of a night must see when a step was done."""
    said = in_log(DONE)
    assert re.fullmatch(r"encoding texts: 2/200, about \d+ s left", said[0])
    assert re.fullmatch(r"encoding texts: 200/200, took \d+ s", said[-1])


def test_a_step_that_ends_early_says_where() -> None:
    """Silence would look like a step that still runs."""
    said = in_log(STOPPED)[-1]
    assert re.fullmatch(r"distilling, trial 10 of 12: stopped at 120000/600000 after \d+ s", said)
    assert re.search(r"120000/600000 stopped after \d+ s$", lines(in_terminal(STOPPED))[-1])


def test_nothing_is_said_of_a_step_without_work() -> None:
    """What is cached, or over at once, is not worth a line."""
    cached = 'with shown.progress("encoding texts"):\n    pass\n'
    short = 'console.SECONDS_UNTIL_SHOWN = 60\nwith shown.progress("encoding texts") as report:\n    report(1, 1)\n'
    for body in (cached, short):
        assert in_log(body) == []
        assert lines(in_terminal(body)) == []


def test_a_bar_fits_into_80_columns_with_all_that_it_says() -> None:
    """A bar that wraps fills the screen with copies of itself."""
    for body in (DONE, STOPPED, NESTED):
        shown = lines(in_terminal(body))
        assert max(map(len, shown)) <= 80
    assert re.fullmatch(
        r"distilling, trial 10 of 12 \S+ 120000/600000 stopped after \d+ s", lines(in_terminal(STOPPED))[-1]
    )
    assert re.fullmatch(r"encoding texts \S+ 200/200 took \d+ s", lines(in_terminal(DONE))[-1])


def test_a_step_within_a_step_is_shown_beside_it() -> None:
    """Episodes are sampled when they are first asked for, in the middle of what asks."""
    said = [line.partition(",")[0] for line in in_log(NESTED)[-2:]]
    assert said == ["sampling episodes: 2/2", "re-evaluating finalists: 4/4"]
    outer, inner = lines(in_terminal(NESTED))[-2:]
    assert outer.startswith("re-evaluating finalists")
    assert inner.startswith("sampling episodes")


@pytest.mark.parametrize("body", [DONE, STOPPED])
def test_no_colour_and_no_cursor_where_they_are_not_wanted(body: str) -> None:
    """NO_COLOR is a promise, and a dumb terminal (an editor's, a CI's) shows control codes as rubbish."""
    assert COLOUR.search(in_terminal(body))
    assert not COLOUR.search(in_terminal(body, NO_COLOR="1"))
    dumb = in_terminal(body, TERM="dumb")
    assert "\x1b" not in dumb
    assert re.sub(r"\d+ s", "N s", dumb.strip()).splitlines()[-1] == re.sub(r"\d+ s", "N s", in_log(body)[-1])
