"""Trial chains: a trial and its continuations, which are one configuration and count once.

A trial that has ended in Optuna cannot run again. A pruned trial that is promoted therefore resumes as a new trial with
the same parameters and the values reported so far; checkpoint and rung results stay those of the chain's first trial.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from optuna.trial import FrozenTrial, TrialState, create_trial

ERROR = "error"
REASON = "reason"
COST = "cost_seconds"
# Attribute of a trial for which memory did not suffice as planned: most episodes trained on at a time.
MICRO_BATCH_SIZE = "episodes at once"
# Attribute of a trial whose worker was lost: the cost at the rung that it had reached, each time.
LOST = "workers lost"
# Attributes of a continuation: the first trial of its chain, and the last rung that the chain had reached.
CONTINUES = "continues trial"
FROM_RUNG = "continues from rung"
# Attribute of a student that is trained again for more steps: the trial whose student it is.
EXTENDS = "extends"
# Attribute of the trial of the default configuration.
DEFAULT = "default configuration"
# Attribute of a trial of the no-prune control group: the last rung at which the rule would have pruned it.
CONTROL_GROUP = "control group at rung"


def chain_of(trial: FrozenTrial) -> int:
    """Return the chain of a trial: the number of its first trial, which names its checkpoints and rung results."""
    return int(trial.user_attrs.get(CONTINUES, trial.number))


def chains(trials: Iterable[FrozenTrial]) -> dict[int, list[FrozenTrial]]:
    """Return the trials by chain; each chain in order of number."""
    found: dict[int, list[FrozenTrial]] = {}
    for trial in sorted(trials, key=lambda trial: trial.number):
        found.setdefault(chain_of(trial), []).append(trial)
    return found


def pruned_trials(chains: Mapping[int, list[FrozenTrial]]) -> dict[int, FrozenTrial]:
    """Return the pruned trials, which may be promoted, by chain."""
    return {first: chain[-1] for first, chain in chains.items() if chain[-1].state == TrialState.PRUNED}


def continuation(pruned: FrozenTrial, rung: int, reason: str) -> FrozenTrial:
    """Return a waiting trial that resumes a pruned one.

    Args:
        pruned: The last trial of its chain.
        rung: The last rung that it has reached.
        reason: Why it is promoted, in words for the user.
    """
    attributes = {CONTINUES: chain_of(pruned), FROM_RUNG: rung, REASON: reason}
    return create_trial(
        state=TrialState.WAITING,
        params=pruned.params,
        distributions=pruned.distributions,
        intermediate_values=pruned.intermediate_values,
        user_attrs=pruned.user_attrs | attributes,
    )


def resumes(trial: FrozenTrial) -> bool:
    """Tell whether a trial waits that continues or extends another: it is no new one, whatever the budget."""
    return trial.state == TrialState.WAITING and not {CONTINUES, EXTENDS}.isdisjoint(trial.user_attrs)


def spends_budget(chain: Iterable[FrozenTrial]) -> bool:
    """Tell whether a chain counts against a budget of trials: all do except those that only wait."""
    return any(trial.state != TrialState.WAITING for trial in chain)


def cost(chain: Iterable[FrozenTrial]) -> float:
    """Return the measured seconds of a chain so far; each trial's cost includes that of the trials before it."""
    return max(float(trial.user_attrs.get(COST, 0.0)) for trial in chain)
