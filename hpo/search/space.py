"""Translates the study file's `[search.space]` to Optuna: what a trial suggests, and which sampler proposes it."""

from __future__ import annotations

import functools
import itertools
import random
from collections.abc import Callable, Sequence
from typing import Any

import optuna
from optuna.distributions import CategoricalChoiceType
from optuna.trial import FrozenTrial, TrialState

from distill.hyperparameters import StudentHyperparameters
from studies.config.distill_losses import LOSSES
from studies.config.distill_section import DistillSection
from studies.config.hyperparameters import Hyperparameters, applies
from studies.config.search_domains import Domain, Range, holds
from studies.config.search_section import SearchSection


def suggest(trial: optuna.Trial, search: SearchSection) -> Hyperparameters:
    """Return the trial's configuration; parameters that its learner does not use are not suggested."""
    learner = _suggest(trial, "learner", search.space["learner"])
    layers = _suggest(trial, "trainable_layers", search.space["trainable_layers"])
    values = {
        name: _suggest(trial, *search.domain(name, learner))
        for name in search.space
        if name not in ("learner", "trainable_layers") and applies(name, learner, layers)
    }
    return Hyperparameters(learner=learner, trainable_layers=layers, **values)


def suggest_student(trial: optuna.Trial, section: DistillSection) -> StudentHyperparameters:
    """Return the student's configuration; parameters that do not apply to it are not suggested."""
    values: dict[str, Any] = {}
    for name, domain in section.space.items():
        if section.applies(name, values):
            values[name] = _suggest(trial, name, domain)
    return StudentHyperparameters.from_dict(dict.fromkeys(LOSSES, 0.0) | values)


def student_start(section: DistillSection) -> dict[str, Any]:
    """Return the first student to try: the defaults, as far as they lie in the space."""
    start: dict[str, Any] = {}
    for name, value in StudentHyperparameters().to_dict().items():
        if section.applies(name, start) and holds(section.space[name], value):
            start[name] = value
    return start


class SeededByTrial(optuna.samplers.BaseSampler):
    """Draws each trial's proposals from a seed of its own, so that they depend on nothing but the study.

    A worker that was killed, or one that joins late, proposes for a trial what any other would have proposed; no two
    trials of a study draw the same numbers.

    Args:
        make: Makes the sampler that proposes, from a seed.
        seed: Seed of the study.
    """

    def __init__(self, make: Callable[[int], optuna.samplers.BaseSampler], seed: int) -> None:
        self._make, self._seed = make, seed
        self._number: int | None = None
        self._sampler = make(seed)

    def _of(self, trial: FrozenTrial) -> optuna.samplers.BaseSampler:
        if trial.number != self._number:
            self._number, self._sampler = trial.number, self._make((self._seed * 1_000_003 + trial.number) % 2**32)
        return self._sampler

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, optuna.distributions.BaseDistribution]:
        """Delegate to the trial's sampler."""
        return self._of(trial).infer_relative_search_space(study, trial)

    def sample_relative(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        search_space: dict[str, optuna.distributions.BaseDistribution],
    ) -> dict[str, Any]:
        """Delegate to the trial's sampler."""
        return self._of(trial).sample_relative(study, trial, search_space)

    def sample_independent(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: optuna.distributions.BaseDistribution,
    ) -> Any:
        """Delegate to the trial's sampler."""
        return self._of(trial).sample_independent(study, trial, param_name, param_distribution)

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """Delegate to the trial's sampler."""
        self._of(trial).before_trial(study, trial)

    def after_trial(
        self, study: optuna.Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        """Delegate to the trial's sampler."""
        self._of(trial).after_trial(study, trial, state, values)


def make_sampler(search: SearchSection) -> optuna.samplers.BaseSampler:
    """Return the sampler that `search.sampler` names."""
    return SeededByTrial(functools.partial(proposer, search), search.seed)


def proposer(search: SearchSection, seed: int) -> optuna.samplers.BaseSampler:
    """Return the sampler that proposes for a whole search, or for one trial of it."""
    match search.sampler:
        case "random" | "grid":
            # A grid's points are queued when the study is registered; nothing is left to propose.
            return optuna.samplers.RandomSampler(seed)
        case "gp":
            return optuna.samplers.GPSampler(seed=seed, n_startup_trials=_startup(search.trials))
        case "tpe":
            # Grouped: parameters of the inner loop are modelled together, among the trials that have them. A
            # constant liar keeps parallel workers from proposing the same point.
            return optuna.samplers.TPESampler(
                seed=seed,
                multivariate=True,
                group=True,
                constant_liar=True,
                n_startup_trials=_startup(search.trials),
            )


def grid(search: SearchSection) -> list[dict[str, CategoricalChoiceType]]:
    """Return every distinct configuration of a space without real ranges, in an order drawn from the study's seed.

    Optuna's own grid would repeat each configuration of a learner without an inner loop for every value of the inner
    loop's parameters, which that learner does not use.
    """
    points: list[dict[str, CategoricalChoiceType]] = []
    shared = (_choices(search.space[name]) for name in ("learner", "trainable_layers"))
    for learner, layers in itertools.product(*shared):
        rest = [n for n in search.space if n not in ("learner", "trainable_layers") and applies(n, learner, layers)]
        domains = [search.domain(name, learner) for name in rest]
        for values in itertools.product(*(_choices(domain) for _, domain in domains)):
            drawn = {name: value for (name, _), value in zip(domains, values, strict=True)}
            points.append({"learner": learner, "trainable_layers": layers, **drawn})
    random.Random(search.seed).shuffle(points)
    return points


def _choices(domain: Domain) -> list[Any]:
    if isinstance(domain, Range):
        return list(range(int(domain.low), int(domain.high) + 1))
    return domain if isinstance(domain, list) else [domain]


def _suggest(trial: optuna.Trial, name: str, domain: Domain) -> Any:
    if isinstance(domain, Range):
        if domain.whole:
            return trial.suggest_int(name, int(domain.low), int(domain.high), log=domain.log)
        return trial.suggest_float(name, domain.low, domain.high, log=domain.log)
    return trial.suggest_categorical(name, _choices(domain))


def _startup(trials: int) -> int:
    # Random proposals before the first model is fitted: Optuna's ten, but at most half of a small budget.
    return max(2, min(10, trials // 2))
