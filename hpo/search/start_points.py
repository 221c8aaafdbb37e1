"""What a search tries first: the default configuration, then those of the study file and of an older study."""

from __future__ import annotations

from typing import Any

import optuna

from hpo.search.trial_chains import DEFAULT, chain_of
from storage.errors import InputError
from studies.config.search_section import SearchSection


def enqueue(
    study: optuna.Study, search: SearchSection, points: list[dict[str, Any]], best: list[optuna.trial.FrozenTrial]
) -> None:
    """Queue the default configuration, a grid, the study file's starting points, and an older study's that fit.

    The default configuration is what searching is compared with. It is queued once for a study, before all others; it
    takes no trial from starting points where the budget has none to spare.

    Args:
        study: The study of the search.
        search: The study file's `[search]`.
        points: Of a grid; empty for other samplers.
        best: Best trials of the older study; empty without one.

    Raises:
        InputError: None of `best` lies in the search's space.
    """
    translated = {chain_of(trial): _translated(trial, search) for trial in best}
    if translated and not any(translated.values()):
        raise InputError(
            f"search.warm_start = {search.warm_start!r}: none of that study's best {len(translated)} trials lies in "
            "this one's space; widen [search.space], or leave warm_start out"
        )
    starts = [search.point(values) for values in search.start]
    wanted = len(starts) + sum(point is not None for point in translated.values())
    known = any(DEFAULT in trial.user_attrs for trial in study.get_trials(deepcopy=False))
    if not known and search.trials > wanted:
        study.enqueue_trial(search.default_point(), {DEFAULT: True})
    for point in (*points, *starts):
        study.enqueue_trial(point, skip_if_exists=True)
    for number, found in translated.items():
        if found:
            attributes = {"warm start": f"trial {number} of {search.warm_start}"}
            study.enqueue_trial(found, attributes, skip_if_exists=True)


def _translated(trial: optuna.trial.FrozenTrial, search: SearchSection) -> dict[str, object] | None:
    """Return another study's configuration under this one's names; None where it lies outside this one's space.

    Parameters that only the other study searches are left out; those that only this one searches are sampled.
    """
    learner = str(trial.params.get("learner"))
    values = {name.removeprefix(f"{learner}."): value for name, value in trial.params.items()}
    try:
        return search.point({name: value for name, value in values.items() if name in search.space})
    except ValueError:
        return None
