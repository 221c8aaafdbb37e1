"""Starting points of a search: configurations from the study file and from an older study's best trials."""

from __future__ import annotations

import optuna

from hpo.search.trial_chains import chain_of
from storage.errors import InputError
from studies.config.search_section import SearchSection


def enqueue(study: optuna.Study, search: SearchSection, best: list[optuna.trial.FrozenTrial]) -> None:
    """Queue the study file's own starting points, then those of an older study's best trials that fit, each once.

    Args:
        study: The study of the search.
        search: The study file's `[search]`.
        best: Best trials of the older study; empty without one.

    Raises:
        InputError: None of `best` lies in the search's space.
    """
    for values in search.start:
        study.enqueue_trial(search.point(values), skip_if_exists=True)
    points = {chain_of(trial): _translated(trial, search) for trial in best}
    if points and not any(points.values()):
        raise InputError(
            f"search.warm_start = {search.warm_start!r}: none of that study's best {len(points)} trials lies in this "
            "one's space; widen [search.space], or leave warm_start out"
        )
    for number, point in points.items():
        if point:
            attributes = {"warm start": f"trial {number} of {search.warm_start}"}
            study.enqueue_trial(point, attributes, skip_if_exists=True)


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
