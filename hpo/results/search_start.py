"""Where a search started, to compare its best trial with: the default configuration, the best of the first trials."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from optuna.trial import FrozenTrial, TrialState

from distill.evaluation import Compared, SearchGain
from distill.objective import Teacher
from hpo.ownership import owned_search
from hpo.results.summary import Scored
from hpo.search.loop import ranked
from hpo.search.trial_chains import DEFAULT, ERROR, REASON, chain_of, chains
from storage.database.postgres import Database
from studies.config.spec import StudySpec
from studies.evaluation.metrics import compare
from studies.training.objective import load_teacher
from studies.training.problem import Problem

# Trials that count as the first ones.
FIRST = 5


class SearchStart(NamedTuple):
    """Where a search started.

    Attributes:
        default: The default configuration; None where it did not finish.
        first: The best of the first trials, by the search's own recall; None where none finished, or where the search
            had no more trials than these.
        unfinished: Why there is no default configuration; "" where there is one.
    """

    default: Teacher | None = None
    first: Teacher | None = None
    unfinished: str = ""

    @property
    def trials(self) -> dict[str, Teacher]:
        """Return these trials by what they are, each once; the default configuration first."""
        found = {"default": self.default, "best of the first": self.first}
        known = {what: teacher for what, teacher in found.items() if teacher is not None}
        if len({teacher.trial for teacher in known.values()}) < len(known):
            del known["best of the first"]
        return known


def search_start(database: Database, spec: StudySpec, problem: Problem) -> SearchStart:
    """Return where a study's search started; it has ended.

    Raises:
        InputError: A checkpoint is missing or damaged.
    """
    owned = owned_search(database, spec.name)
    study = owned.open()
    finished, known = ranked(study), chains(study.get_trials(deepcopy=False))
    default = next((trial for trial in finished if DEFAULT in trial.user_attrs), None)
    first = next((trial for trial in finished if chain_of(trial) < FIRST), None)

    def load(trial: FrozenTrial | None) -> Teacher | None:
        if trial is None:
            return None
        return Teacher(trial.number, trial.value or 0.0, load_teacher(problem, owned.trial_folder(chain_of(trial))))

    return SearchStart(
        default=load(default),
        first=load(first if len(known) > FIRST else None),
        unfinished="" if default is not None else _unfinished(known),
    )


def search_gain(
    results: Mapping[str, Scored], best: Teacher, start: SearchStart, labels: Mapping[int, str]
) -> SearchGain:
    """Return by how much the search's best trial is above where the search started, on the same episodes.

    Args:
        results: Every system's metrics.
        best: The search's best trial.
        start: Where it started.
        labels: Names of the systems by trial.
    """

    def compared(other: Teacher | None) -> Compared | None:
        if other is None:
            return None
        system = labels[other.trial]
        gain = None
        if other.trial != best.trial:
            gain = compare(results[labels[best.trial]].main, results[system].main)
        return Compared(trial=other.trial, system=system, gain=gain)

    return SearchGain(
        default=compared(start.default), first=compared(start.first), first_trials=FIRST, unfinished=start.unfinished
    )


def _unfinished(known: Mapping[int, Sequence[FrozenTrial]]) -> str:
    """Return why the default configuration has not finished."""
    last = next((chain[-1] for chain in known.values() if DEFAULT in chain[-1].user_attrs), None)
    if last is None:
        return "it was not tried: the starting points took all trials"
    if last.state == TrialState.FAIL:
        return f"trial {last.number} failed: {last.user_attrs.get(ERROR, 'no reason is known')}"
    if last.state == TrialState.PRUNED:
        return f"trial {last.number} was stopped: {last.user_attrs.get(REASON, 'no reason is known')}"
    return f"trial {last.number} was not done when the search ended"
