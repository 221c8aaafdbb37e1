"""Warm start: what a study tries first, by the trials of an older one.

A forest of randomised trees (Geurts, Ernst and Wehenkel, "Extremely randomized trees", Machine Learning 2006) learns
from the older study's trials what a configuration reaches. Each point is the one of many random configurations of which
it expects most. Only their order counts, so the older study may be on other data.
"""

from __future__ import annotations

import contextlib
import math
import random
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import optuna

from hpo.pruning.forecast import Forecast
from hpo.pruning.rung_history import Floats, RungHistory
from hpo.search.loop import ranked
from hpo.search.space import suggest
from hpo.search.trial_chains import chain_of, chains
from storage.errors import InputError
from studies.config.hyperparameters import applies
from studies.config.search_domains import Range, Words, values_of
from studies.config.search_section import SearchSection

# Random configurations that each point is chosen from.
CANDIDATES = 64
TREES = 300
# Fewer trials promise nothing.
FEWEST = 4


class Known(NamedTuple):
    """A configuration of an older study, and the recall that it reached or was forecast to reach where it stopped."""

    values: Mapping[str, Any]
    recall: float


class WarmPoint(NamedTuple):
    """A configuration to try, complete or partial, by its parameters' names in the study, and where it comes from."""

    values: dict[str, Any]
    reason: str


class WarmStart:
    """What an older study proposes for a new one: its best configuration, then those that its trials promise most of.

    Args:
        search: The new study's search.
        older: The older study, of which a trial has finished.
        history: What its trials reached.

    Attributes:
        name: Name of the older study.

    Raises:
        InputError: None of its learners is searched in the new study.
    """

    def __init__(self, search: SearchSection, older: optuna.Study, history: RungHistory) -> None:
        self.name, self._search = older.study_name, search
        learners = values_of(search.space["learner"])
        found = chains(older.get_trials(deepcopy=False))
        of_learners = {number for number, chain in found.items() if chain[0].params.get("learner") in learners}
        if not of_learners:
            raise InputError(
                f"search.warm_start = {self.name!r}: that study searched none of this one's learners, "
                f"{', '.join(learners)}; add one of its learners to [search.space], or leave warm_start out"
            )
        recalls = ends(history, sorted(of_learners))
        self._known = [Known(plain(found[number][0].params), recall) for number, recall in recalls.items()]
        best = ranked(older)[0]
        self._best: list[WarmPoint] = []
        values = {name: value for name, value in plain(best.params).items() if name in search.space}
        with contextlib.suppress(ValueError):  # it lies outside the new space
            self._best.append(WarmPoint(search.point(values), f"the best trial of {self.name}, {chain_of(best)}"))

    def points(self, first: int, count: int) -> list[WarmPoint]:
        """Return those of the first `count` points that come after `first` ones; each depends on its place alone."""
        found = self._best[first:count]
        places = range(max(first, len(self._best)), count if len(self._known) >= FEWEST else 0)
        if places:
            forest = Forest(self._search, self._known, self._search.seed)
            reason = f"the most promising of {CANDIDATES}, by {len(self._known)} trials of {self.name}"
            found += [WarmPoint(self._drawn(forest, place), reason) for place in places]
        return found

    def _drawn(self, forest: Forest, place: int) -> dict[str, Any]:
        """Return the configuration of which the forest expects most, of random ones that no other place draws."""
        seed = random.Random(f"{self._search.seed} {self.name} {place}").getrandbits(32)
        study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed))
        drawn = [study.ask() for _ in range(CANDIDATES)]
        values = [suggest(trial, self._search).to_dict() for trial in drawn]
        return drawn[int(forest.expected(values).argmax())].params


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

        self._columns = Columns(search)
        places = [self._columns.of(trial.values) for trial in trials]
        self._forest = ExtraTreesRegressor(TREES, random_state=seed).fit(places, [trial.recall for trial in trials])

    def expected(self, configurations: Iterable[Mapping[str, Any]]) -> Floats:
        """Return the expected recall of each configuration, (N,)."""
        recalls: Floats = self._forest.predict([self._columns.of(values) for values in configurations])
        return recalls


class Columns:
    """Configurations as numbers: a column for each word of a parameter that is a choice of words, one for each number.

    A number stands between the lowest and the highest value that any searched learner's domain has, from 0 to 1, by its
    logarithm in a `log` range. One that lies outside stands at the nearer end, one that is missing at 0.

    Args:
        search: The space.
    """

    def __init__(self, search: SearchSection) -> None:
        self._words: dict[str, list[str]] = {}
        self._scales: dict[str, Range] = {}
        learners = values_of(search.space["learner"])
        for name in search.space:
            domains = [search.domain(name, learner)[1] for learner in learners if applies(name, learner, 1)]
            values = {value for domain in domains for value in values_of(domain)}
            if isinstance(search.parameters()[name], Words):
                self._words[name] = sorted(values)
            else:
                log = any(isinstance(domain, Range) and domain.log for domain in domains) and min(values) > 0
                self._scales[name] = Range(low=min(values), high=max(values), log=log)

    def of(self, values: Mapping[str, Any]) -> list[float]:
        """Return the columns of a configuration, maybe of another space."""
        words = [float(values.get(name) == word) for name, known in self._words.items() for word in known]
        return words + [_position(scale, values.get(name, scale.low)) for name, scale in self._scales.items()]


def _position(scale: Range, value: float) -> float:
    if scale.low == scale.high:
        return 0.0
    inside = min(max(value, scale.low), scale.high)
    low, high, here = (math.log(each) if scale.log else each for each in (scale.low, scale.high, inside))
    return (here - low) / (high - low)
