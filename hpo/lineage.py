"""Which of a study's trials are one story: a trial, its retries after interruptions, and its continuations.

Optuna's trials end for good. What is interrupted, or stopped at a rung and taken up again, goes on as a new trial with
the same parameters and the values reported so far; checkpoint and rung results stay those of the first one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from optuna.trial import FrozenTrial, TrialState, create_trial

ERROR = "error"
REASON = "reason"
COST = "cost_seconds"
# Attributes of a trial that goes on with a stopped one: the first trial of the story, and the rung that it had reached.
CONTINUES = "continues trial"
FROM_RUNG = "continues from rung"
# Attribute of a trial whose rank at a rung would have stopped it, had it not been kept to measure false prunes.
SPARED = "spared at rung"


def origin(trial: FrozenTrial) -> int:
    """Number of the first trial of the story that this one belongs to: checkpoints and rung results go by it."""
    first = trial.user_attrs.get(CONTINUES, trial.system_attrs.get("failed_trial"))
    return trial.number if first is None else int(first)


def stories(trials: Iterable[FrozenTrial]) -> dict[int, list[FrozenTrial]]:
    """Trials by the first one of their story; each story in order of number."""
    found: dict[int, list[FrozenTrial]] = {}
    for trial in sorted(trials, key=lambda trial: trial.number):
        found.setdefault(origin(trial), []).append(trial)
    return found


def paused(stories: Mapping[int, list[FrozenTrial]]) -> dict[int, FrozenTrial]:
    """The stopped trials that may be taken up again, by the first one of their story."""
    return {first: story[-1] for first, story in stories.items() if story[-1].state == TrialState.PRUNED}


def continuation(stopped: FrozenTrial, rung: int, reason: str) -> FrozenTrial:
    """A trial that waits to go on with a stopped one.

    Args:
        stopped: the last trial of its story.
        rung: that it has reached.
        reason: why it goes on, in words.
    """
    attributes = {CONTINUES: origin(stopped), FROM_RUNG: rung, REASON: reason}
    return create_trial(
        state=TrialState.WAITING,
        params=stopped.params,
        distributions=stopped.distributions,
        intermediate_values=stopped.intermediate_values,
        user_attrs=stopped.user_attrs | attributes,
    )


def counts(story: Iterable[FrozenTrial]) -> bool:
    """Whether a story counts against a budget of trials: not one that only waits or was interrupted."""
    return any(
        ERROR in trial.user_attrs if trial.state == TrialState.FAIL else trial.state != TrialState.WAITING
        for trial in story
    )


def cost(story: Iterable[FrozenTrial]) -> float:
    """Measured seconds of a story so far: each trial's count what came before it."""
    return max(float(trial.user_attrs.get(COST, 0.0)) for trial in story)
