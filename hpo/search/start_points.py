"""What a search tries first: the default configuration, then those of the study file and of a warm start."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import optuna
from optuna.trial import FrozenTrial

from hpo.search.trial_chains import CONTINUES, DEFAULT, chains
from hpo.search.warm_start import WarmStart
from studies.config.search_section import SearchSection

# Attributes of a trial that an older study proposed: why, and the name of that study.
WARM_START = "warm start"
OLDER_STUDY = "warm start from"


def enqueue(study: optuna.Study, search: SearchSection, points: list[dict[str, Any]], warm: WarmStart | None) -> None:
    """Queue the default configuration, a grid, the study file's starting points, and those of a warm start.

    The default configuration is what searching is compared with. It is queued once for a study, before all others; it
    takes no trial from starting points where the budget has none to spare. A warm start has what the budget leaves, and
    queues those of its points that no earlier launch has queued.

    Args:
        study: The study of the search.
        search: The study file's `[search]`.
        points: Of a grid; empty for other samplers.
        warm: The warm start; None without one.
    """
    starts = [search.point(values) for values in search.start]
    trials = study.get_trials(deepcopy=False)
    known = any(DEFAULT in trial.user_attrs for trial in trials)
    if not known and search.trials > len(starts) + bool(warm and not warm.recorded):
        study.enqueue_trial(search.default_point(), {DEFAULT: True})
    for point in (*points, *starts):
        study.enqueue_trial(point, skip_if_exists=True)
    if warm is None:
        return
    queued = started_by(trials, warm.name)
    if warm.recorded and trials and not queued:
        return  # it has begun without
    left = search.trials - len(chains(study.get_trials(deepcopy=False)))
    for values, reason in warm.points(queued, min(warm.most, queued + left)):
        study.enqueue_trial(values, {WARM_START: reason, OLDER_STUDY: warm.name}, skip_if_exists=True)


def started_by(trials: Iterable[FrozenTrial], older: str) -> int:
    """Return how many of a study's trials an older study has proposed, each counted once however often it continues."""
    return sum(trial.user_attrs.get(OLDER_STUDY) == older and CONTINUES not in trial.user_attrs for trial in trials)
