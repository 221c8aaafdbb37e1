"""What a distillation has found: its students side by side, the front of them, and the one that is taken."""

from __future__ import annotations

from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from hpo.search.trial_chains import REASON
from storage.errors import InputError
from studies.config.spec import StudySpec


def take(study: optuna.Study, spec: StudySpec) -> FrozenTrial:
    """The student to export: of best validation recall, or of a Pareto front the fastest that keeps enough of it.

    Raises:
        InputError: no student has finished.
    """
    finished = [t for t in study.get_trials(deepcopy=False) if t.state == TrialState.COMPLETE]
    if not finished:
        raise InputError(
            f"the distillation of {spec.name!r} has no finished student; its trials say why: "
            f"hpo distill {spec.name} goes on with more --trials"
        )
    best = max(trial.values[0] for trial in finished)
    if len(spec.distill.objectives) == 1:
        return min(finished, key=lambda trial: (-trial.values[0], trial.number))
    enough = [trial for trial in finished if trial.values[0] >= spec.distill.retain * best]
    return min(enough, key=lambda trial: (trial.values[1], -trial.values[0], trial.number))


def students(study: optuna.Study, spec: StudySpec) -> list[dict[str, Any]]:
    """Every trial of a distillation as plain figures, by number.

    Returns:
        Each with its `state`, validation `recall`, `latency` and `size` (time and parameters over the
        teacher's encoder, None unless it finished), `params`, `reason` of the pruner; `front` where no other
        student is at least as good in all three and better in one, `taken` for the one that is exported.
    """
    rows = []
    for trial in study.get_trials(deepcopy=False):
        values = trial.values or list(trial.intermediate_values.values())[-1:]
        rows.append(
            {
                "trial": trial.number,
                "state": trial.state.name.lower(),
                "recall": values[0] if values else None,
                "latency": trial.user_attrs.get("latency"),
                "size": trial.user_attrs.get("size"),
                "params": trial.params,
                "reason": trial.user_attrs.get(REASON),
            }
        )
    finished = [row for row in rows if row["state"] == "complete" and row["latency"] is not None]
    taken = take(study, spec).number if finished else None
    for row in rows:
        row["front"] = row in finished and not any(dominates(other, row) for other in finished)
        row["taken"] = row["trial"] == taken
    return rows


def dominates(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether a student is nowhere worse than another in recall, time and size, and better in one."""
    ours, theirs = ((-row["recall"], row["latency"], row["size"]) for row in (one, other))
    return ours != theirs and all(a <= b for a, b in zip(ours, theirs, strict=True))
