"""Re-evaluates finalists: the best trials are evaluated again, on other draws of all validation scenes.

The best of many noisy recalls is too high on average (the winner's curse). The search did not select on other supports
and queries of the same scenes, so these show which trial is really the best, and how much of its recall was luck. Each
evaluation is recorded at once: an interruption loses at most one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from optuna.trial import FrozenTrial

from distill.evaluation import Finalist, Finalists
from hpo.ownership import owned_search
from hpo.search.trial_chains import chain_of
from storage.database.postgres import Database
from storage.database.records import Records
from studies.config.spec import StudySpec
from studies.progress import Progress
from studies.training.objective import load_teacher
from studies.training.problem import Problem

Recalls = Mapping[str, float]


class FinalistEvaluator:
    """Re-evaluates trials of a study.

    Args:
        database: Where the study lives.
        spec: The study.
        problem: Its data.
    """

    def __init__(self, database: Database, spec: StudySpec, problem: Problem) -> None:
        self._records, self._spec, self._problem = Records(database.engine), spec, problem
        self._owned = owned_search(database, spec.name)
        self._episodes = problem.redrawn("validation", spec.finalists.draws)
        # Where all rows are scored already, there is nothing else to draw.
        self._draws = spec.finalists.draws if self._episodes else 0
        self._searched = searched_recalls(self._records, spec)

    def __call__(self, trials: Sequence[FrozenTrial], progress: Progress) -> Finalists:
        """Evaluate trials on the other draws and return them ranked by recall over all draws.

        Args:
            trials: Finished trials, the search's best first; at least one.
            progress: Called with (trials done, trials in all).
        """
        base_searched, base_redrawn = self._baseline()
        found = []
        for done, trial in enumerate(trials, start=1):
            searched = self._searched[chain_of(trial)]
            redrawn = self._redrawn(trial) if self._draws else searched
            recall = _mean(_pooled(searched, redrawn, self._draws))
            found.append(Finalist(trial=trial.number, searched=_mean(searched), redrawn=_mean(redrawn), recall=recall))
            progress(done, len(trials))
        best = found[0]
        return Finalists(
            draws=self._draws,
            ranked=tuple(sorted(found, key=lambda finalist: (-finalist.recall, finalist.trial))),
            optimism=(best.searched - base_searched) - (best.redrawn - base_redrawn),
        )

    def _redrawn(self, trial: FrozenTrial) -> Recalls:
        """Return recall by scene on the other draws, from the trial's last checkpoint."""

        def measure() -> dict[str, float]:
            learner = load_teacher(self._problem, self._owned.trial_folder(chain_of(trial)))
            scenes = self._problem.evaluate(learner, self._episodes).scenes
            return {name: scene.recall for name, scene in scenes.items()}

        return self._once(f"finalist {chain_of(trial)}", measure)

    def _baseline(self) -> tuple[float, float]:
        """Return recall of the reference on the search's draw and on the others; it was not selected on either."""
        problem = self._problem

        def measure() -> dict[str, float]:
            drawn = {"searched": problem.validation, "redrawn": self._episodes or problem.validation}
            return {name: problem.evaluate_reference(episodes).mean() for name, episodes in drawn.items()}

        found = self._once("finalists' baseline", measure)
        return found["searched"], found["redrawn"]

    def _once(self, name: str, measure: Callable[[], dict[str, float]]) -> dict[str, float]:
        """Return a measurement from its record, or make and record it now."""
        name = f"{name}, {self._spec.finalists.draws} draws"
        stored = self._records.stage_result(self._spec.name, name)
        return stored if stored is not None else self._records.finish_stage(self._spec.name, name, measure())


def searched_recalls(records: Records, spec: StudySpec) -> dict[int, Recalls]:
    """Return recall by validation scene, as the search measured it, of each trial chain that reached the last rung."""
    last = len(spec.pruner.rungs) - 1
    return {result.trial: result.scene_recalls for result in records.rung_results(spec.name) if result.rung == last}


def _pooled(searched: Recalls, redrawn: Recalls, draws: int) -> dict[str, float]:
    """Return the mean over all draws by scene; a scene without an episode on one side takes the other side's recall."""
    return {
        name: (searched.get(name, redrawn.get(name, np.nan)) + draws * redrawn.get(name, searched.get(name, np.nan)))
        / (1 + draws)
        for name in searched.keys() | redrawn.keys()
    }


def _mean(recalls: Recalls) -> float:
    return float(np.mean([recalls[name] for name in sorted(recalls)]))
