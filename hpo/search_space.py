"""From the study file's `[search.space]` to Optuna: what a trial suggests, and which sampler proposes it."""

from __future__ import annotations

import itertools
import random
from typing import Any

import optuna

from studies.domains import Domain, Range
from studies.hyperparameters import Hyperparameters, applies
from studies.search_section import SearchSection


def suggest(trial: optuna.Trial, search: SearchSection) -> Hyperparameters:
    """The trial's configuration; parameters that it has no use for are not suggested at all."""
    learner = _suggest(trial, "learner", search.space["learner"])
    layers = _suggest(trial, "trainable_layers", search.space["trainable_layers"])
    values = {
        name: _suggest(trial, *search.domain(name, learner))
        for name in search.space
        if name not in ("learner", "trainable_layers") and applies(name, learner, layers)
    }
    return Hyperparameters(learner=learner, trainable_layers=layers, **values)


def make_sampler(search: SearchSection, seed: int) -> optuna.samplers.BaseSampler:
    """The sampler that `search.sampler` names.

    Args:
        search: the study file's section.
        seed: of this worker; workers that share a study need different ones, or they propose the same trials.
    """
    match search.sampler:
        case "random" | "grid":
            # A grid's points are queued when the study is registered: its sampler proposes nothing.
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


def grid(search: SearchSection) -> list[dict[str, Any]]:
    """Every distinct configuration of a space without real ranges, in an order drawn from the study's seed.

    Optuna's own grid would repeat each configuration of a learner without an inner loop for every value of the inner
    loop's parameters, which it has no use for.
    """
    points = []
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
    # Random proposals before a model is worth fitting: Optuna's ten, but at most half of a small budget.
    return max(2, min(10, trials // 2))
