"""`RecallPruner`: the rules of `hpo.pruning` as an ordinary Optuna pruner, for this service and for any script.

With our tables (`records`) a retried or resumed trial counts once, pruned trials can be promoted later, and a decision
reads only the results since the last one. Without them it works from Optuna's intermediate values: a retry under
another number counts once more, a pruned trial stays pruned, and every decision reads all trials.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Sequence
from typing import get_args

import optuna
from optuna.trial import FrozenTrial, TrialState

from hpo.pruning.asha import Asha
from hpo.pruning.improvement import Improvement
from hpo.pruning.rules import Decision, Rule, decide
from hpo.pruning.rung_history import RungHistory
from hpo.search.trial_chains import chain_of
from storage.database.records import Records
from storage.errors import InputError
from studies.config.definition import RuleName
from studies.config.spec import StudySpec


class RecordedHistory:
    """A study's rung results in our tables; each read adds those that are new.

    Args:
        records: Our tables.
        study: Name of the study.
        rungs: Steps at the rungs.
        scene: What the study's task calls what recalls are averaged over.
    """

    def __init__(self, records: Records, study: str, rungs: Sequence[int], scene: str = "scene") -> None:
        self._records, self._study, self._scene = records, study, scene
        self._history, self._seen = RungHistory(rungs), 0
        self._scenes: dict[int, frozenset[str]] = {}

    def read(self) -> RungHistory:
        """Return the history up to now.

        Raises:
            InputError: A result was measured on other scenes than the others.
        """
        for arrival, result in self._records.rung_results_since(self._study, self._seen):
            if result.scene_recalls:
                self.check_scenes(frozenset(result.scene_recalls), result.rung)
            self._history.add(result.trial, result.rung, result.recall, result.cost_seconds)
            self._seen = arrival
        return self._history

    def check_scenes(self, scenes: frozenset[str], rung: int) -> None:
        """Refuse scenes that differ from those of the results at the rung so far; the first call for it sets them.

        Raises:
            InputError: They differ; the message names a scene that only one side has.
        """
        known = self._scenes.setdefault(rung, scenes)
        if different := sorted(scenes ^ known):
            raise InputError(
                f"study {self._study!r} holds recalls on {len(known)} validation {self._scene}s at rung {rung + 1}, "
                f"these are on {len(scenes)} ({different[0]!r} is only in one): they cannot be compared; "
                "give the study a new name, or restore its data and protocol"
            )


def recorded_history(records: Records, spec: StudySpec) -> RungHistory:
    """Return what the trials of a study have reached, without the recalls of single scenes: read once, and small."""
    history = RungHistory(spec.pruner.rungs)
    for trial, rung, recall, seconds in records.rung_costs(spec.name):
        history.add(trial, rung, recall, seconds)
    return history


def rule_of(name: RuleName, eta: int, *, resumes: bool) -> Rule:
    """Return the rule of this name.

    Args:
        name: As in `[pruner] rule`.
        eta: Of "asha".
        resumes: Whether pruned trials can be promoted later.

    Raises:
        ValueError: There is none of this name, or `eta` is below 2.
    """
    if name not in get_args(RuleName):
        raise ValueError(f"rule must be one of {', '.join(get_args(RuleName))}, got {name!r}")
    asha = Asha(eta)
    return asha if name == "asha" else Improvement(resumes=resumes)


class RecallPruner(optuna.pruners.BasePruner):
    """Prunes trials at rungs, by what the trials that have gone on say of the end.

    Example:
        >>> import optuna
        >>> pruner = RecallPruner(rungs=[10, 30, 90])
        >>> study = optuna.create_study(direction="maximize", pruner=pruner)
        >>> def objective(trial):
        ...     x = trial.suggest_float("x", 0, 1)
        ...     for step in (10, 30, 90):
        ...         trial.report(x, step)
        ...         if trial.should_prune():
        ...             raise optuna.TrialPruned
        ...     return x
        >>> optuna.logging.set_verbosity(optuna.logging.ERROR)
        >>> study.optimize(objective, n_trials=12)

    Args:
        rungs: Increasing steps at which trials are compared; the last one ends a trial.
        eta: With the rule "asha", one trial in `eta` continues from each rung.
        keep: Fraction of trials in the control group, which no rule prunes and which shows what pruning loses.
        seed: Chooses the control group, by trial number.
        rule: "improvement": a trial continues if its chance to end above the best one is worth its seconds, or without
            `records` its steps. "asha": if it is among the best 1/eta of all that have reached the rung.
        resumes: Whether pruned trials can be promoted later, as this service does.
        metric: Name of the metric, for the reasons of decisions.
        records: Our tables, where rung results are recorded before they are reported to Optuna.

    Raises:
        ValueError: The rule is unknown, `eta` is below 2, `rungs` is empty or does not increase, or `keep` lies outside
            [0, 1].
    """

    def __init__(
        self,
        rungs: Sequence[int],
        eta: int = 3,
        keep: float = 0.0,
        seed: int = 0,
        *,
        rule: RuleName = "improvement",
        resumes: bool = False,
        metric: str = "recall",
        records: Records | None = None,
    ) -> None:
        if not rungs or any(later <= earlier for earlier, later in itertools.pairwise(rungs)):
            raise ValueError(f"rungs must be increasing steps, at least one, got {list(rungs)}")
        if not 0 <= keep <= 1:
            raise ValueError(f"keep must be between 0 and 1, got {keep}")
        self._rungs, self._keep, self._seed, self._metric = list(rungs), keep, seed, metric
        self._rule = rule_of(rule, eta, resumes=resumes)
        self._records = records
        self._recorded: dict[str, RecordedHistory] = {}

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        """Tell whether to prune the trial now: Optuna's interface.

        Raises:
            ValueError: The study does not maximise one objective, a recall lies outside [0, 1], or, with `records`, the
                rung was not recorded.
        """
        return self.decision(study, trial).prune

    def decision(self, study: optuna.Study, trial: FrozenTrial) -> Decision:
        """Return the decision on a trial that has just reported, with its reason."""
        check_directions(study)
        step = trial.last_step
        if step is None or step not in self._rungs:
            return Decision(False, "not at a rung")
        check_recall(trial.intermediate_values[step])
        rung = self._rungs.index(step)
        if self._records is None:
            return self.decide(_from_intermediate_values(study, self._rungs, trial), trial.number, rung)
        history, number = self._recorded_history(study.study_name).read(), trial.number
        if not history.has(number, rung):
            number = chain_of(trial)  # reads the whole trial from the database: only where it has another's number
        if not history.has(number, rung):
            raise ValueError(
                f"trial {number} has no recorded result at rung {rung + 1}; with records, call Records.record_rung "
                "before should_prune, or leave records out to judge by intermediate values"
            )
        return self.decide(history, number, rung)

    def decide(self, history: RungHistory, number: int, rung: int, *, kept: bool = False) -> Decision:
        """Return the decision on a trial whose result at the rung is in the history.

        Args:
            history: Results of the study.
            number: Number of the trial.
            rung: The rung, from 0.
            kept: Whether the trial belongs to the control group whatever its number.
        """
        control = kept or in_control_group(number, self._keep, self._seed)
        return decide(self._rule, history, number, rung, control=control, metric=self._metric)

    def _recorded_history(self, study: str) -> RecordedHistory:
        assert self._records is not None
        if study not in self._recorded:
            self._recorded[study] = RecordedHistory(self._records, study, self._rungs)
        return self._recorded[study]


def _from_intermediate_values(study: optuna.Study, rungs: Sequence[int], trial: FrozenTrial) -> RungHistory:
    history = RungHistory(rungs)
    # A failed trial's values are repeated by its retry, if it has one.
    others = (t for t in study.get_trials(deepcopy=False) if t.state != TrialState.FAIL and t.number != trial.number)
    for each in (*others, trial):
        for rung, step in enumerate(rungs):
            if step in each.intermediate_values:
                history.add(each.number, rung, each.intermediate_values[step])
    return history


def in_control_group(number: int, fraction: float, seed: int) -> bool:
    """Tell whether the trial of this number belongs to the control group that no rule prunes."""
    digest = hashlib.blake2b(f"{seed}\x1f{number}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") < fraction * 2**64


def check_directions(study: optuna.Study) -> None:
    """Refuse a study that the pruner cannot judge.

    Raises:
        ValueError: It does not maximise one objective.
    """
    if len(study.directions) != 1 or study.direction != optuna.study.StudyDirection.MAXIMIZE:
        found = ", ".join(direction.name.lower() for direction in study.directions)
        raise ValueError(
            f"RecallPruner needs a study that maximises one objective, got {found}; "
            'create it with direction="maximize", or take another pruner'
        )


def check_recall(recall: float) -> None:
    """Refuse a value that cannot be a recall; one that is not finite is accepted, as training may diverge.

    Raises:
        ValueError: It lies outside [0, 1].
    """
    if math.isfinite(recall) and not 0 <= recall <= 1:
        raise ValueError(
            f"a recall lies between 0 and 1, got {recall}; report the metric itself, no loss or percentage"
        )
