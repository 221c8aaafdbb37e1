"""`RecallPruner`: the decisions of `hpo.search.asha` as an ordinary Optuna pruner, for this service and for any script.

With our tables (`records`) a retried or resumed trial counts once, stopped trials can be taken up again, and a decision
reads only what arrived since the one before. Without them it works from Optuna's intermediate values, and loses those
three: a retry under another number than the trial it repeats counts as one more, what is pruned stays pruned, and every
decision walks over all trials.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Sequence

import optuna
from optuna.trial import FrozenTrial, TrialState

from hpo.search.asha import Decision, RungHistory, decide
from hpo.search.trial_chains import origin
from storage.database.records import Records
from storage.errors import InputError


class RecordedHistory:
    """A study's rung results as our tables hold them, read anew only as far as they are new.

    Args:
        records: our tables.
        study: its name.
        rungs: how many rungs it has.

    Raises:
        InputError: a result was measured on other scenes than the others.
    """

    def __init__(self, records: Records, study: str, rungs: int) -> None:
        self._records, self._study = records, study
        self._history, self._seen = RungHistory(rungs), 0
        self._scenes: frozenset[str] | None = None

    def read(self) -> RungHistory:
        """The history up to now."""
        for arrival, result in self._records.rung_results_since(self._study, self._seen):
            if result.scene_recalls:
                self.check_scenes(frozenset(result.scene_recalls))
            self._history.add(result.trial, result.rung, result.recall)
            self._seen = arrival
        return self._history

    def check_scenes(self, scenes: frozenset[str]) -> None:
        """Refuses scenes that are not those of the results so far; the first ones set them.

        Raises:
            InputError: names a scene that only one side has.
        """
        if self._scenes is None:
            self._scenes = scenes
        if different := sorted(scenes ^ self._scenes):
            raise InputError(
                f"study {self._study!r} holds recalls on {len(self._scenes)} validation scenes, these are on "
                f"{len(scenes)} ({different[0]!r} is only in one): they cannot be compared; "
                "give the study a new name, or restore its data and protocol"
            )


class RecallPruner(optuna.pruners.BasePruner):
    """Stops a trial at a rung where it is not among the best 1/eta of all that have reached the same rung.

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
        rungs: increasing steps at which trials are compared; the last one ends a trial.
        eta: one in `eta` trials goes on from each rung.
        keep: fraction of trials that are never pruned for their rank: what they reach shows what pruning loses.
        seed: chooses the kept ones, by trial number.
        metric: what to call the figure in a decision's words.
        records: our tables, where rung results are recorded before they are reported to Optuna.

    Raises:
        ValueError: eta below 2, no rungs or rungs that do not increase, keep outside [0, 1].
    """

    def __init__(
        self,
        rungs: Sequence[int],
        eta: int = 3,
        keep: float = 0.0,
        seed: int = 0,
        *,
        metric: str = "recall",
        records: Records | None = None,
    ) -> None:
        if eta < 2:
            raise ValueError(f"eta must be at least 2, got {eta}: one in eta trials goes on from each rung")
        if not rungs or any(later <= earlier for earlier, later in itertools.pairwise(rungs)):
            raise ValueError(f"rungs must be increasing steps, at least one, got {list(rungs)}")
        if not 0 <= keep <= 1:
            raise ValueError(f"keep must be between 0 and 1, got {keep}")
        self._rungs, self._eta, self._keep, self._seed, self._metric = list(rungs), eta, keep, seed, metric
        self._records = records
        self._recorded: dict[str, RecordedHistory] = {}

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        """Whether to stop the trial now: Optuna's interface.

        Raises:
            ValueError: the study does not maximise one objective, a recall lies outside [0, 1], or, with `records`, the
                rung was not recorded.
        """
        return self.decision(study, trial).prune

    def decision(self, study: optuna.Study, trial: FrozenTrial) -> Decision:
        """The decision on a trial that has just reported, with its reason."""
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
            number = origin(trial)  # reads the whole trial from the database: only where it has another's number
        if not history.has(number, rung):
            raise ValueError(
                f"trial {number} has no recorded result at rung {rung + 1}; with records, call Records.record_rung "
                "before should_prune, or leave records out to judge by intermediate values"
            )
        return self.decide(history, number, rung)

    def decide(self, history: RungHistory, number: int, rung: int) -> Decision:
        """The decision on a trial whose result at the rung is in the history."""
        control = is_exempt(number, self._keep, self._seed)
        return decide(history, number, rung, eta=self._eta, control=control, metric=self._metric)

    def _recorded_history(self, study: str) -> RecordedHistory:
        assert self._records is not None
        if study not in self._recorded:
            self._recorded[study] = RecordedHistory(self._records, study, len(self._rungs))
        return self._recorded[study]


def _from_intermediate_values(study: optuna.Study, rungs: Sequence[int], trial: FrozenTrial) -> RungHistory:
    history = RungHistory(len(rungs))
    # A failed trial's values live on in its retry, if it has one.
    others = (t for t in study.get_trials(deepcopy=False) if t.state != TrialState.FAIL and t.number != trial.number)
    for each in (*others, trial):
        for rung, step in enumerate(rungs):
            if step in each.intermediate_values:
                history.add(each.number, rung, each.intermediate_values[step])
    return history


def is_exempt(number: int, keep: float, seed: int) -> bool:
    """Whether the trial of this number belongs to the bracket that is never pruned for its rank."""
    digest = hashlib.blake2b(f"{seed}\x1f{number}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") < keep * 2**64


def check_directions(study: optuna.Study) -> None:
    """Refuses a study that the pruner cannot judge.

    Raises:
        ValueError: it does not maximise one objective.
    """
    if len(study.directions) != 1 or study.direction != optuna.study.StudyDirection.MAXIMIZE:
        found = ", ".join(direction.name.lower() for direction in study.directions)
        raise ValueError(
            f"RecallPruner needs a study that maximises one objective, got {found}; "
            'create it with direction="maximize", or take another pruner'
        )


def check_recall(recall: float) -> None:
    """Refuses what cannot be a recall; one that is not finite is a training that diverged, and no error.

    Raises:
        ValueError: it lies outside [0, 1].
    """
    if math.isfinite(recall) and not 0 <= recall <= 1:
        raise ValueError(
            f"a recall lies between 0 and 1, got {recall}; report the metric itself, no loss or percentage"
        )
