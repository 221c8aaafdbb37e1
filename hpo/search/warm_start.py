"""Warm start: what a study tries first, by the trials of an older one, or by recorded ones.

A forest of randomised trees (Geurts, Ernst and Wehenkel, "Extremely randomized trees", Machine Learning 2006) learns
from those trials what a configuration reaches. Each point is the one of many random configurations of which it expects
most. Only their order counts, so the older study may be on other data.
"""

from __future__ import annotations

import contextlib
import json
import math
import random
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
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
from studies.config.spec import StudySpec

# Random configurations that each point is chosen from.
CANDIDATES = 64
TREES = 100
# Fewer trials promise nothing.
FEWEST = 4
# By kind of protocol, configurations and recalls that `benchmarks/recorded_trials.py` wrote; and what stands for the
# name of a study, which has no spaces.
RECORDED, RECORDED_NAME = Path(__file__).with_name("recorded_trials.json"), "recorded trials"


class Known(NamedTuple):
    """A configuration of an older study, and the recall that it reached or was forecast to reach where it stopped."""

    values: Mapping[str, Any]
    recall: float


class WarmPoint(NamedTuple):
    """A configuration to try, complete or partial, by its parameters' names in the study, and where it comes from."""

    values: dict[str, Any]
    reason: str


class WarmStart:
    """What known configurations propose for a new study.

    Args:
        search: The new study's search.
        name: Name of the older study, or `RECORDED_NAME`.
        known: The configurations.
        best: The one to try first, if any.

    Attributes:
        name: As given.
        most: How many points it may have in all.
    """

    def __init__(self, search: SearchSection, name: str, known: Sequence[Known], best: WarmPoint | None) -> None:
        self.name, self._search, self._known = name, search, known
        self._best = [] if best is None else [best]
        self.most = search.warm_start_trials
        if self.recorded:
            self.most = min(self.most, search.trials // 2)

    @property
    def recorded(self) -> bool:
        """Whether no older study is named, so that recorded trials stand for one."""
        return self.name == RECORDED_NAME

    def points(self, first: int, count: int) -> list[WarmPoint]:
        """Return those of the first `count` points that come after `first` ones; each depends on its place alone."""
        found = self._best[first:count]
        places = range(max(first, len(self._best)), count if len(self._known) >= FEWEST else 0)
        if places:
            forest = Forest(self._search, self._known, self._search.seed)
            source = RECORDED_NAME if self.recorded else f"trials of {self.name}"
            reason = f"the most promising of {CANDIDATES}, by {len(self._known)} {source}"
            found += [WarmPoint(self._drawn(forest, place), reason) for place in places]
        return found

    def _drawn(self, forest: Forest, place: int) -> dict[str, Any]:
        """Return the configuration of which the forest expects most, of random ones that no other place draws."""
        seed = random.Random(f"{self._search.seed} {self.name} {place}").getrandbits(32)
        study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed))
        drawn = [study.ask() for _ in range(CANDIDATES)]
        values = [suggest(trial, self._search).to_dict() for trial in drawn]
        return drawn[int(forest.expected(values).argmax())].params


def from_study(search: SearchSection, older: optuna.Study, history: RungHistory) -> WarmStart:
    """Return the warm start from an older study: its best configuration, then those that its trials promise most of.

    Args:
        search: The new study's search.
        older: The older study, of which a trial has finished.
        history: What its trials reached.

    Raises:
        InputError: None of its learners is searched in the new study.
    """
    name, learners = older.study_name, values_of(search.space["learner"])
    found = chains(older.get_trials(deepcopy=False))
    of_learners = {number for number, chain in found.items() if chain[0].params.get("learner") in learners}
    if not of_learners:
        raise InputError(
            f"search.warm_start = {name!r}: that study searched none of this one's learners, "
            f"{', '.join(learners)}; add one of its learners to [search.space], or leave warm_start out"
        )
    recalls = ends(history, sorted(of_learners))
    known = [Known(plain(found[number][0].params), recall) for number, recall in recalls.items()]
    best, first = ranked(older)[0], None
    values = {name: value for name, value in plain(best.params).items() if name in search.space}
    with contextlib.suppress(ValueError):  # it lies outside the new space
        first = WarmPoint(search.point(values), f"the best trial of {name}, {chain_of(best)}")
    return WarmStart(search, name, known, first)


def from_recorded(spec: StudySpec) -> WarmStart | None:
    """Return the warm start of a study that names no older one; None where no trials of its kind are recorded."""
    if spec.search.sampler == "grid" or not (rows := json.loads(RECORDED.read_text()).get(spec.protocol.kind)):
        return None
    learners = values_of(spec.search.space["learner"])
    known = [Known(values, recall) for values, recall in rows if values["learner"] in learners]
    return WarmStart(spec.search, RECORDED_NAME, known, None)


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
