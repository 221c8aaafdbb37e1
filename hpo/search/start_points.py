"""Where a search begins: configurations known to be good, from the study file and from an older study's best trials."""

from __future__ import annotations

import optuna

from hpo.search.trial_chains import origin
from storage.errors import InputError
from studies.config.search_section import SearchSection


def enqueue(study: optuna.Study, search: SearchSection, best: list[optuna.trial.FrozenTrial]) -> None:
    """Queues the study file's own starting points, then what fits of an older study's best trials, each once.

    Raises:
        InputError: there are such trials, and none of them lies in the search's space.
    """
    for values in search.start:
        study.enqueue_trial(search.point(values), skip_if_exists=True)
    points = {origin(trial): _translated(trial, search) for trial in best}
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
    """Another study's configuration under this one's names; None where it does not lie in this one's space.

    Parameters that only one of the two searches are left out, or left to the sampler.
    """
    learner = str(trial.params.get("learner"))
    values = {name.removeprefix(f"{learner}."): value for name, value in trial.params.items()}
    try:
        return search.point({name: value for name, value in values.items() if name in search.space})
    except ValueError:
        return None
