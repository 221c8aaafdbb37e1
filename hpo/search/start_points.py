"""What a search tries first: the default configuration, then those of the study file and of a warm start."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import optuna

from hpo.search.trial_chains import DEFAULT
from studies.config.search_section import SearchSection

# Attribute of a trial that an older study proposed: how.
WARM_START = "warm start"


class WarmPoint(NamedTuple):
    """A configuration that an older study proposes, complete or partial, and how, in words for the user."""

    point: dict[str, Any]
    reason: str


def enqueue(
    study: optuna.Study, search: SearchSection, points: list[dict[str, Any]], warm: Sequence[WarmPoint]
) -> None:
    """Queue the default configuration, a grid, the study file's starting points, and those of a warm start.

    The default configuration is what searching is compared with. It is queued once for a study, before all others; it
    takes no trial from starting points where the budget has none to spare.

    Args:
        study: The study of the search.
        search: The study file's `[search]`.
        points: Of a grid; empty for other samplers.
        warm: Of the older study; empty without one. Those that an earlier launch has queued are left out.
    """
    starts = [search.point(values) for values in search.start]
    trials = study.get_trials(deepcopy=False)
    known = any(DEFAULT in trial.user_attrs for trial in trials)
    if not known and search.trials > len(starts) + bool(warm):
        study.enqueue_trial(search.default_point(), {DEFAULT: True})
    for point in (*points, *starts):
        study.enqueue_trial(point, skip_if_exists=True)
    for point, reason in warm[sum(WARM_START in trial.user_attrs for trial in trials) :]:
        study.enqueue_trial(point, {WARM_START: reason}, skip_if_exists=True)
