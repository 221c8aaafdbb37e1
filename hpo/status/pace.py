"""How long a search still takes: from how long workers have had its trials, training or not."""

from __future__ import annotations

from collections.abc import Sequence

from hpo.status.trial_view import ENDED, TrialView, unpruned_seconds

# From here on, the time that a running trial has taken tells how long it takes.
KNOWN_PROGRESS = 0.05


def mean_seconds(views: Sequence[TrialView]) -> float:
    """Return the seconds of workers that a trial takes on average; 0 while none has ended.

    What running trials have taken counts too: the fast ones end first, and alone they would promise too much.
    """
    ended = sum(view.state in ENDED for view in views)
    return sum(view.wall_seconds for view in views) / ended if ended else 0.0


def seconds_of_trials(views: Sequence[TrialView], rungs: Sequence[int], new: int, finalists: int) -> float:
    """Return the seconds until all trials have ended, with as many workers as run now.

    Args:
        views: The trials so far, of which some have ended.
        rungs: Resource at each rung.
        new: Trials that have not begun.
        finalists: How many trials finish at least; pruned ones are promoted where fewer do.
    """
    mean, running = mean_seconds(views), [view for view in views if view.state == "running"]
    rest = [_rest(view, mean) for view in running]
    complete = sum(view.state == "complete" for view in views)
    promoted = max(0, finalists - complete - len(running) - new)
    pruned = [unpruned_seconds(view, rungs) - view.cost_seconds for view in views if view.state == "pruned"]
    finishing = promoted * sum(pruned) / len(pruned) if pruned else 0.0
    # The slowest running trial ends no sooner for the workers beside it.
    return max([(mean * new + sum(rest) + finishing) / max(1, len(running)), *rest])


def _rest(view: TrialView, mean: float) -> float:
    """Return the seconds that a running trial has left: at its own rate, or at that of others while that is unknown."""
    done = 0.5 if view.progress is None else view.progress
    known = view.progress is not None and done >= KNOWN_PROGRESS and view.wall_seconds > 0
    return (view.wall_seconds / done if known else mean) * (1 - done)
