"""Which configuration comes next: the replay's stand-in for a sampler, over recorded configurations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import optuna
from optuna.trial import TrialState

from hpo.search.space import proposer, suggest
from hpo.search.trial_chains import continuation
from replay.clock import Run
from replay.curves import Curves, Floats
from studies.config.search_domains import Range
from studies.config.search_section import SearchSection
from studies.config.spec import parse_spec


def search_of(curves: Curves) -> SearchSection:
    """The search space that a table was recorded in, whatever the other sections of its study held then."""
    kept = ("name", "task", "data", "search")
    return parse_spec({name: curves.spec[name] for name in kept if name in curves.spec}).search


def places(curves: Curves, search: SearchSection, far: float = 10.0) -> Floats:
    """(N, D) coordinates of the configurations."""
    return np.array([place(values, search, far) for values in curves.parameters])


def place(values: dict[str, Any], search: SearchSection, far: float = 10.0) -> list[float]:
    """A configuration's coordinates: ranges on [0, 1] in their own scale, choices 1 apart, learners `far`."""
    found: list[float] = []
    for name, shared in search.space.items():
        value = values.get(name)
        domain = search.domain(name, values["learner"])[1] if name != "learner" else shared
        if isinstance(domain, Range) and not isinstance(value, str):
            low, high, here = (math.log(v) if domain.log else v for v in (domain.low, domain.high, value or domain.low))
            found.append((here - low) / (high - low))
        elif isinstance(domain, list):
            found += [(far if name == "learner" else 1.0) * (value == choice) for choice in domain]
    return found


class Proposals:
    """Which configuration comes next: at random, or the recorded one nearest to what TPE proposes. Each comes once.

    Args:
        curves: the configurations.
        sampler: "random" or "tpe".
        seed: of the order.
        pruner: of the study that the proposals keep.
        first: rows that come before all others.
    """

    def __init__(
        self, curves: Curves, sampler: str, seed: int, pruner: optuna.pruners.BasePruner, first: Sequence[int] = ()
    ) -> None:
        self._curves, self._first = curves, list(first)
        order = np.random.default_rng(seed).permutation(len(curves.test)).tolist()
        self._order: list[int] = [row for row in order if row not in {*curves.earlier, *first}]
        self._search: SearchSection | None = None
        made: optuna.samplers.BaseSampler = optuna.samplers.RandomSampler(seed)
        if sampler == "tpe":
            self._search = search_of(curves)
            made = proposer(self._search.model_copy(update={"trials": len(curves.test)}), seed)
            self._places = places(curves, self._search)
        # Hyperband draws a trial's bracket from the study's name, which would be another one every time.
        self.study = optuna.create_study(study_name=f"replay {seed}", direction="maximize", sampler=made, pruner=pruner)
        self.trials: dict[int, optuna.Trial] = {}

    def ask(self) -> Run | None:
        """The next configuration, its trial now in `trials` by its row; None when every one has come."""
        if not self._order:
            return None
        row = self._next(self._search)
        self.trials[row] = self.study.ask()
        if self._search is not None:
            suggest(self.trials[row], self._search)
        return Run(row)

    def take_up(self, row: int, rung: int, reason: str) -> None:
        """Goes on with a stopped trial as the service does."""
        stopped = self.study.get_trials(deepcopy=False)[self.trials[row].number]
        self.study.add_trial(continuation(stopped, rung, reason))
        self.trials[row] = self.study.ask()

    def stop(self, row: int) -> None:
        """Tells the study that a trial was stopped."""
        self.study.tell(self.trials[row], state=TrialState.PRUNED)

    def finish(self, row: int) -> None:
        """Tells the study what a trial reached in the end."""
        self.study.tell(self.trials[row], float(self._curves.means[row, -1]))

    def _next(self, search: SearchSection | None) -> int:
        """The next row, queued as the study's next trial where a sampler is to learn from it."""
        if search is None:
            return self._first.pop(0) if self._first else self._order.pop(0)
        row = self._first.pop(0) if self._first else self._nearest(search)
        self.study.enqueue_trial(self._named(row))
        return row

    def _nearest(self, search: SearchSection) -> int:
        """The row nearest to the sampler's proposal."""
        drawn = self.study.ask()
        wanted = np.array(place(suggest(drawn, search).to_dict(), search))
        self.study.tell(drawn, state=TrialState.FAIL)  # neither samplers nor pruners look at failed trials
        left = np.array(self._order)
        row = int(left[np.abs(self._places[left] - wanted).sum(1).argmin()])
        self._order.remove(row)
        return row

    def _named(self, row: int) -> dict[str, Any]:
        """A configuration under the names that its parameters have in the study."""
        assert self._search is not None
        values = self._curves.parameters[row]
        learner = values["learner"]
        names = {name: self._search.domain(name, learner)[0] for name in self._search.space if name in values}
        return {given: values[name] for name, given in names.items()}
