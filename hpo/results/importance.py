"""What matters in a search: the importance of every parameter, among trials that were trained equally far.

PED-ANOVA (Watanabe et al., "PED-ANOVA: Efficiently Quantifying Hyperparameter Importance in Arbitrary Subspaces", IJCAI
2023) asks how far the parameters of the best tenth differ from those of all. Optuna's has it for finished trials, of
which a pruned search has few and which all were selected by recall.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Sequence

import optuna
from optuna.trial import FrozenTrial, TrialState, create_trial

from hpo.light_imports import without_scikit_learn
from hpo.results.outcome import ENOUGH_TRIALS, Importance
from hpo.search.trial_chains import chains


def importance(trials: Iterable[FrozenTrial], rungs: Sequence[int]) -> Importance | None:
    """Return what matters at the last rung that enough trials have reached; None while none has been.

    Args:
        trials: All of the search; stopped and failed ones count where they reached the rung.
        rungs: Steps of the rungs.
    """
    newest = [chain[-1] for chain in chains(trials).values()]
    for step in reversed(rungs):
        reached = [trial for trial in newest if math.isfinite(trial.intermediate_values.get(step, math.nan))]
        if len(reached) >= ENOUGH_TRIALS:
            shares = _shares(reached, step)
            return Importance(step=step, trials=len(reached), shares=shares) if shares else None
    return None


def _shares(reached: Sequence[FrozenTrial], step: int) -> dict[str, float]:
    names = sorted({name for trial in reached for name in trial.params})
    varied = [name for name in names if len({trial.params.get(name) for trial in reached}) > 1]
    if not varied:
        return {}
    compared = optuna.create_study(direction="maximize")
    compared.add_trials(
        create_trial(
            state=TrialState.COMPLETE,
            params=trial.params,
            distributions=trial.distributions,
            value=trial.intermediate_values[step],
        )
        for trial in reached
    )
    # Without scikit-learn, which Optuna imports for other ways to measure importance.
    with without_scikit_learn(), warnings.catch_warnings():
        from optuna.importance import get_param_importances

        # Of a parameter that a single trial has, Optuna says that its importance may be inaccurate.
        warnings.simplefilter("ignore")
        return get_param_importances(compared, params=varied)
