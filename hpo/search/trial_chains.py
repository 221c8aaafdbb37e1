"""Which of a study's trials are one chain: a trial, and its continuations.

Optuna's trials end for good. What was stopped at a rung and is taken up again goes on as a new trial with the same
parameters and the values reported so far; checkpoint and rung results stay those of the first one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from optuna.trial import FrozenTrial, TrialState, create_trial

ERROR = "error"
REASON = "reason"
COST = "cost_seconds"
# Attribute of a trial for which memory did not suffice as planned: most episodes trained on at a time.
MICRO_BATCH_SIZE = "episodes at once"
# Attribute of a trial whose worker died: how many rungs it had reached, each time.
LOST = "workers lost"
# Attributes of a trial that goes on with a stopped one: the first trial of the chain, and the rung that it had reached.
CONTINUES = "continues trial"
FROM_RUNG = "continues from rung"
# Attribute of a trial whose rank at a rung would have stopped it, had it not been kept to measure false prunes.
CONTROL_GROUP = "control group at rung"


def origin(trial: FrozenTrial) -> int:
    """Number of the first trial of the chain that this one belongs to: checkpoints and rung results go by it."""
    return int(trial.user_attrs.get(CONTINUES, trial.number))


def chains(trials: Iterable[FrozenTrial]) -> dict[int, list[FrozenTrial]]:
    """Trials by the first one of their chain; each chain in order of number."""
    found: dict[int, list[FrozenTrial]] = {}
    for trial in sorted(trials, key=lambda trial: trial.number):
        found.setdefault(origin(trial), []).append(trial)
    return found


def paused(chains: Mapping[int, list[FrozenTrial]]) -> dict[int, FrozenTrial]:
    """The stopped trials that may be taken up again, by the first one of their chain."""
    return {first: chain[-1] for first, chain in chains.items() if chain[-1].state == TrialState.PRUNED}


def continuation(stopped: FrozenTrial, rung: int, reason: str) -> FrozenTrial:
    """A trial that waits to go on with a stopped one.

    Args:
        stopped: the last trial of its chain.
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


def counts(chain: Iterable[FrozenTrial]) -> bool:
    """Whether a chain counts against a budget of trials: not one that only waits."""
    return any(trial.state != TrialState.WAITING for trial in chain)


def cost(chain: Iterable[FrozenTrial]) -> float:
    """Measured seconds of a chain so far: each trial's count what came before it."""
    return max(float(trial.user_attrs.get(COST, 0.0)) for trial in chain)
