"""The searches that are compared: ours over the production decisions, Optuna's pruners by their own interface."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import optuna
from optuna.trial import TrialState

from hpo.search.asha import Promotion, RungHistory, completion, decide, promotion
from hpo.search.pruner import in_control_group
from hpo.search.space import proposer, suggest
from hpo.search.trial_chains import continuation
from replay.clock import Run
from replay.curves import Curves
from studies.config.search_domains import Range
from studies.config.search_section import SearchSection
from studies.config.spec import parse_spec

NOTHING, OURS = "no pruning", "ours"
# How many finished trials a small search wants at least: `finalists.count`.
WANTED = 4
# As in studies/completejourney.toml.
SHIPPED: dict[str, Any] = {"eta": 3, "keep": 0.05}
# The ablations that see other curves than the rest do.
EARLIER, FEWER = "ours, judged at an earlier rung too", "ours, a third of the scenes at the first rung"
SEEN: dict[str, Callable[[Curves], Curves]] = {
    EARLIER: lambda curves: curves,
    FEWER: lambda curves: curves.shipped().on_fewer_scenes(),
}


class Proposals:
    """Which configuration comes next: at random, or the recorded one nearest to what TPE proposes. Each comes once.

    Args:
        curves: the configurations.
        sampler: "random" or "tpe".
        seed: of the order.
        pruner: of the study that the proposals keep.
    """

    def __init__(self, curves: Curves, sampler: str, seed: int, pruner: optuna.pruners.BasePruner) -> None:
        self._curves = curves
        self._order = list(np.random.default_rng(seed).permutation(len(curves.test)))
        self._search: SearchSection | None = None
        made: optuna.samplers.BaseSampler = optuna.samplers.RandomSampler(seed)
        if sampler == "tpe":
            self._search = parse_spec(curves.spec).search
            made = proposer(self._search.model_copy(update={"trials": len(curves.test)}), seed)
            self._places = np.array([self._place(values) for values in curves.parameters])
        self.study = optuna.create_study(direction="maximize", sampler=made, pruner=pruner)
        self.trials: dict[int, optuna.Trial] = {}

    def ask(self) -> Run | None:
        """The next configuration, its trial now in `trials` by its row; None when every one has come."""
        if not self._order:
            return None
        row = int(self._order.pop(0)) if self._search is None else self._nearest(self._search)
        self.trials[row] = self.study.ask()
        if self._search is not None:
            suggest(self.trials[row], self._search)
        return Run(row)

    def take_up(self, row: int, rung: int, reason: str) -> None:
        """Goes on with a stopped trial as the service does."""
        stopped = self.study.get_trials(deepcopy=False)[self.trials[row].number]
        self.study.add_trial(continuation(stopped, rung, reason))
        self.trials[row] = self.study.ask()

    def stop(self, row: int) -> None:
        """Tells the study that a trial was stopped."""
        self.study.tell(self.trials[row], state=TrialState.PRUNED)

    def finish(self, row: int) -> None:
        """Tells the study what a trial reached in the end."""
        self.study.tell(self.trials[row], float(self._curves.means[row, -1]))

    def _nearest(self, search: SearchSection) -> int:
        """The row nearest to the sampler's proposal, queued as the study's next trial."""
        drawn = self.study.ask()
        wanted = self._place(suggest(drawn, search).to_dict())
        self.study.tell(drawn, state=TrialState.FAIL)  # neither samplers nor pruners look at failed trials
        left = np.array(self._order)
        row = int(left[np.abs(self._places[left] - wanted).sum(1).argmin()])
        self._order.remove(row)
        self.study.enqueue_trial(self._named(row))
        return row

    def _named(self, row: int) -> dict[str, Any]:
        """A configuration under the names that its parameters have in the study."""
        assert self._search is not None
        values = self._curves.parameters[row]
        learner = values["learner"]
        names = {name: self._search.domain(name, learner)[0] for name in self._search.space if name in values}
        return {given: values[name] for name, given in names.items()}

    def _place(self, values: dict[str, Any]) -> list[float]:
        """A configuration's coordinates: ranges on [0, 1] in their own scale, choices far apart, learners farthest."""
        assert self._search is not None
        place: list[float] = []
        for name, shared in self._search.space.items():
            value = values.get(name)
            domain = self._search.domain(name, values["learner"])[1] if name != "learner" else shared
            if isinstance(domain, Range) and not isinstance(value, str):
                low, high, here = (
                    math.log(v) if domain.log else v for v in (domain.low, domain.high, value or domain.low)
                )
                place.append((here - low) / (high - low))
            elif isinstance(domain, list):
                far = 10.0 if name == "learner" else 1.0
                place += [far * (value == choice) for choice in domain]
        return place


class WithPruner:
    """A search under one of Optuna's pruners; without one, only the last rung is evaluated.

    Args:
        name: what to call it.
        curves: the configurations.
        sampler: "random" or "tpe".
        seed: of the proposals.
        pruner: Optuna's.
        by_scene: report every scene's recall as a step of its own, as the Wilcoxon pruner wants it.
    """

    def __init__(
        self,
        name: str,
        curves: Curves,
        sampler: str,
        seed: int,
        pruner: optuna.pruners.BasePruner,
        *,
        by_scene: bool = False,
    ) -> None:
        last = len(curves.updates) - 1
        self.name = name
        self.rungs = (last,) if isinstance(pruner, optuna.pruners.NopPruner) else tuple(range(last + 1))
        self._curves, self._by_scene = curves, by_scene
        self._proposals = Proposals(curves, sampler, seed, pruner)

    def next(self) -> Run | None:
        """A new configuration: Optuna's pruners never take one up again."""
        return self._proposals.ask()

    def report(self, run: Run) -> bool:
        """Reports the rung to Optuna and asks its pruner."""
        trial, curves = self._proposals.trials[run.row], self._curves
        value = float(curves.means[run.row, run.rung])
        if self._by_scene:
            for scene, recall in enumerate(curves.recalls[run.row, run.rung]):
                trial.report(float(recall), run.rung * 1000 + scene)
        else:
            trial.report(value, curves.updates[run.rung])
        if not math.isfinite(value) or (run.rung < self.rungs[-1] and trial.should_prune()):
            self._proposals.stop(run.row)
            return False
        return True

    def finish(self, run: Run) -> None:
        """Tells Optuna the value."""
        self._proposals.finish(run.row)


class Ours:
    """A search under the production decisions of `hpo.search.asha`.

    Args:
        name: what to call it.
        curves: the configurations.
        sampler: "random" or "tpe".
        seed: of the proposals and of the bracket that is kept.
        eta: one in so many goes on.
        keep: fraction of trials that no rank stops.
        promote: whether stopped trials are taken up again.
        rungs: positions of the rungs that are evaluated; all by default.
    """

    def __init__(
        self,
        name: str,
        curves: Curves,
        sampler: str,
        seed: int,
        *,
        eta: int = 3,
        keep: float = 0.0,
        promote: bool = True,
        rungs: Sequence[int] | None = None,
    ) -> None:
        self.name, self.rungs = name, tuple(rungs or range(len(curves.updates)))
        self._curves, self._seed, self._eta, self._keep, self._promote = curves, seed, eta, keep, promote
        self._proposals = Proposals(curves, sampler, seed, optuna.pruners.NopPruner())
        self._history = RungHistory(len(self.rungs))
        self._paused: set[int] = set()
        self._going: set[int] = set()

    def next(self) -> Run | None:
        """A stopped configuration that ranks high enough by now, else a new one, else one to finish with."""
        if self._promote and (found := promotion(self._history, self._paused, eta=self._eta)):
            return self._resume(found)
        asked = self._proposals.ask()
        if asked is not None:
            self._going.add(asked.row)
            return asked
        found = completion(self._history, self._paused, finished=len(self._going), wanted=WANTED)
        return self._resume(found) if found and self._promote else None

    def _resume(self, found: Promotion) -> Run:
        self._paused.remove(found.trial)
        self._going.add(found.trial)
        self._proposals.take_up(found.trial, found.rung, found.reason)
        return Run(found.trial, self.rungs[found.rung])

    def report(self, run: Run) -> bool:
        """Adds the result to the history and decides."""
        rung, value = self.rungs.index(run.rung), float(self._curves.means[run.row, run.rung])
        self._history.add(run.row, rung, value)
        self._proposals.trials[run.row].report(value, self._curves.updates[run.rung])
        control = in_control_group(run.row, self._keep, self._seed)
        decision = decide(self._history, run.row, rung, eta=self._eta, control=control)
        if decision.prune:
            self._proposals.stop(run.row)
            self._going.discard(run.row)
            if decision.below_quota:
                self._paused.add(run.row)
        return not decision.prune

    def finish(self, run: Run) -> None:
        """Tells the sampler."""
        self._proposals.finish(run.row)


# How a system is made: of curves, sampler and seed.
Factory = Callable[[Curves, str, int], Any]


def _optuna(name: str, make: Callable[[Curves], optuna.pruners.BasePruner]) -> Factory:
    return lambda curves, sampler, seed: WithPruner(
        name, curves, sampler, seed, make(curves), by_scene=name == "Wilcoxon"
    )


def ours(name: str, **settings: Any) -> Factory:
    """Ours with other settings than it ships with."""
    return lambda curves, sampler, seed: Ours(name, curves, sampler, seed, **settings)


def systems() -> dict[str, Factory]:
    """All that are compared, by name; "no pruning" first, which the others' costs are measured by."""
    pruners: dict[str, Callable[[Curves], optuna.pruners.BasePruner]] = {
        NOTHING: lambda _: optuna.pruners.NopPruner(),
        "Median": lambda _: optuna.pruners.MedianPruner(),
        "Percentile(75)": lambda _: optuna.pruners.PercentilePruner(75),
        "Patient+Median": lambda _: optuna.pruners.PatientPruner(optuna.pruners.MedianPruner(), patience=1),
        "SuccessiveHalving": lambda curves: optuna.pruners.SuccessiveHalvingPruner(curves.updates[0], 3),
        "Hyperband": lambda curves: optuna.pruners.HyperbandPruner(curves.updates[0], curves.updates[-1], 3),
        "Wilcoxon": lambda _: optuna.pruners.WilcoxonPruner(),
    }
    return {name: _optuna(name, make) for name, make in pruners.items()} | {OURS: ours(OURS, **SHIPPED)}


def ablations() -> dict[str, Factory]:
    """Ours without one of its parts, or with another setting."""
    changes: dict[str, dict[str, Any]] = {
        "without promotion": {"promote": False},
        "nothing kept": {"keep": 0.0},
        "a tenth kept": {"keep": 0.1},
        "eta 2": {"eta": 2},
        "eta 4": {"eta": 4},
        "judged at a third of the end only": {"rungs": (1, 2)},
    }
    found = {f"ours, {name}": ours(f"ours, {name}", **(SHIPPED | change)) for name, change in changes.items()}
    return found | {name: ours(name, **SHIPPED) for name in SEEN}
