"""Warm start: what a study tries first, by the trials of an older one.

A forest of randomised trees (Geurts, Ernst and Wehenkel, "Extremely randomized trees", Machine Learning 2006) learns
from the older study's trials what a configuration reaches. Each point is the one of many random configurations of which
it expects most. Only their order counts, so the older study may be on other data.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import optuna
from optuna.trial import FrozenTrial

from hpo.pruning.forecast import Forecast
from hpo.pruning.rung_history import Floats, RungHistory
from hpo.search.loop import ranked
from hpo.search.space import suggest
from hpo.search.start_points import WarmPoint
from hpo.search.trial_chains import chain_of, chains
from studies.config.search_domains import Range
from studies.config.search_section import SearchSection

# Random configurations that each point is chosen from.
CANDIDATES = 64
TREES = 300


class Known(NamedTuple):
    """A configuration of an older study, and the recall that it reached or was forecast to reach where it stopped."""

    values: Mapping[str, Any]
    recall: float


def known(trials: Iterable[FrozenTrial], history: RungHistory) -> list[Known]:
    """Return the configurations of a study that have reached a rung.

    Args:
        trials: All trials of its search.
        history: What they reached.
    """
    found = chains(trials)
    recalls = ends(history, found)
    return [Known(plain(found[number][0].params), recall) for number, recall in recalls.items()]


def ends(history: RungHistory, trials: Iterable[int]) -> dict[int, float]:
    """Return the recall at the last rung of each trial that has reached a rung.

    It is a forecast of those that stopped before, and 0 of those that diverged.
    """
    found = {}
    forecast = Forecast(history) if history.reached(0) else None
    for trial in trials:
        if (rung := history.last_rung(trial)) is None:
            continue
        recall = history.recall(trial, rung)
        known_end = forecast.ends(np.array([recall]), rung)[0] if forecast and math.isfinite(recall) else [0.0]
        found[trial] = float(known_end[0])
    return found


def proposals(search: SearchSection, older: optuna.Study, history: RungHistory) -> list[WarmPoint]:
    """Return what an older study proposes: its best configuration, then those of which its trials promise most.

    Args:
        search: The new study's search.
        older: The older study, of which a trial has finished.
        history: What its trials reached.
    """
    name, best = older.study_name, ranked(older)[0]
    trials = known(older.get_trials(deepcopy=False), history)
    found = []
    # One that lies outside the new space cannot be tried.
    with contextlib.suppress(ValueError):
        values = {name: value for name, value in plain(best.params).items() if name in search.space}
        found.append(WarmPoint(search.point(values), f"the best trial of {name}, {chain_of(best)}"))
    reason = f"the most promising of {CANDIDATES}, by {len(trials)} trials of {name}"
    more = points(search, trials, search.warm_start_trials - len(found))
    return found + [WarmPoint(point, reason) for point in more]


def plain(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return a trial's parameters under their own names, without the learner's in front."""
    learner = str(parameters.get("learner"))
    return {name.removeprefix(f"{learner}."): value for name, value in parameters.items()}


class Forest:
    """What a configuration is expected to reach, by those that are known.

    Args:
        search: The space that configurations are compared in.
        trials: The known ones, at least one.
        seed: Of the trees.
    """

    def __init__(self, search: SearchSection, trials: Sequence[Known], seed: int) -> None:
        # Here alone: importing it takes longer than all other work of a launch.
        from sklearn.ensemble import ExtraTreesRegressor

        self._search = search
        places = [coordinates(search, trial.values) for trial in trials]
        self._forest = ExtraTreesRegressor(TREES, random_state=seed).fit(places, [trial.recall for trial in trials])

    def expected(self, configurations: Iterable[Mapping[str, Any]]) -> Floats:
        """Return the expected recall of each configuration, (N,)."""
        recalls: Floats = self._forest.predict([coordinates(self._search, values) for values in configurations])
        return recalls


def points(search: SearchSection, trials: Sequence[Known], count: int) -> list[dict[str, Any]]:
    """Return the configurations to try first, by the names of their parameters in the study.

    Args:
        search: The new study's search; its seed draws the configurations.
        trials: Those of the older study, at least one.
        count: How many to return. The first ones do not depend on it.
    """
    forest = Forest(search, trials, search.seed)
    drawing = optuna.create_study(sampler=optuna.samplers.RandomSampler(search.seed))
    found = []
    for _ in range(count):
        drawn = [drawing.ask() for _ in range(CANDIDATES)]
        values = [suggest(trial, search).to_dict() for trial in drawn]
        found.append(drawn[int(forest.expected(values).argmax())].params)
    return found


def coordinates(search: SearchSection, values: Mapping[str, Any]) -> list[float]:
    """Return a configuration's coordinates: ranges on [0, 1] in their own scale, a column for each choice.

    A parameter that the configuration lacks, or whose value is no number of a range, has coordinate 0.
    """
    learner = str(values["learner"])
    found: list[float] = []
    for name, shared in search.space.items():
        value = values.get(name)
        domain = shared if name == "learner" else search.domain(name, learner)[1]
        if isinstance(domain, Range):
            found.append(_position(domain, value) if isinstance(value, int | float) else 0.0)
        elif isinstance(domain, list):
            found += [float(value == choice) for choice in domain]
    return found


def _position(domain: Range, value: float) -> float:
    """Return where a value stands in a range, from 0 to 1; one that lies outside stands at the nearer end."""
    if domain.low == domain.high:
        return 0.0
    inside = min(max(value, domain.low), domain.high)
    low, high, here = (math.log(each) if domain.log else each for each in (domain.low, domain.high, inside))
    return (here - low) / (high - low)
