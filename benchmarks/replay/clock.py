"""The simulated clock: workers that train recorded configurations, and a scheduler that says which and how far."""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field
from typing import Protocol

from replay.curves import Curves


@dataclass
class Run:
    """One configuration in training.

    Attributes:
        row: the configuration's row of the curves.
        rung: the last rung it has reached, -1 before the first.
    """

    row: int
    rung: int = -1


class Scheduler(Protocol):
    """What is compared: a search with its pruner. It sees the results of a rung when the clock has come to them."""

    name: str
    rungs: tuple[int, ...]

    def next(self) -> Run | None:
        """The run that a free worker takes up; None when there is nothing left."""

    def report(self, run: Run) -> bool:
        """Hears that a run has reached its rung; whether it goes on at once."""

    def finish(self, run: Run) -> None:
        """Hears that a run has ended at the last rung."""


@dataclass(frozen=True)
class Finish:
    """A configuration that reached the last rung, at this cost of the whole search."""

    cost: float
    row: int


@dataclass
class Trace:
    """What a search did.

    Attributes:
        cost: of all its work.
        started: rows, in order.
        finished: in order of time.
        running: rows that are in training when the budget is spent.
    """

    cost: float = 0.0
    started: list[int] = field(default_factory=list)
    finished: list[Finish] = field(default_factory=list)
    running: set[int] = field(default_factory=set)


def replay(curves: Curves, scheduler: Scheduler, workers: int, budget: float) -> Trace:
    """Runs a search until its budget is spent.

    Args:
        curves: the configurations.
        scheduler: the search.
        workers: that work side by side; each is always busy, so the cost is the clock times the workers.
        budget: seconds of work in all; what would end later does not count.
    """
    trace, clock, tick = Trace(), 0.0, 0
    events: list[tuple[float, int, int, Run]] = []
    rungs = scheduler.rungs

    def seconds(run: Run, place: int) -> float:
        """Of training from the rung that the run has reached to its next one, and the evaluation there."""
        before = curves.training[run.row, run.rung] if run.rung >= 0 else 0.0
        return float(curves.training[run.row, rungs[place]] - before + curves.evaluation[run.row, rungs[place]])

    def push(run: Run) -> None:
        nonlocal tick
        place = rungs.index(run.rung) + 1 if run.rung >= 0 else 0
        tick += 1
        heapq.heappush(events, (clock + seconds(run, place), tick, place, run))

    def start() -> None:
        run = scheduler.next()
        if run is not None:
            if run.rung < 0:
                trace.started.append(run.row)
            push(run)

    for _ in range(workers):
        start()
    while events and events[0][0] * workers <= budget:
        clock, _, place, run = heapq.heappop(events)
        trace.cost = clock * workers
        run.rung = rungs[place]
        goes_on = scheduler.report(run)
        if goes_on and place < len(rungs) - 1:
            push(run)
            continue
        if goes_on:
            scheduler.finish(run)
            trace.finished.append(Finish(trace.cost, run.row))
        # The result may allow waiting workers to continue: all idle workers ask again.
        for _ in range(workers - len(events)):
            start()
    trace.running = {run.row for *_, run in events}
    return trace
