"""The searches that are compared: ours over the production decisions, Optuna's pruners by their own interface."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import optuna

from hpo.pruning.rules import Promotion, completion, decide
from hpo.pruning.rung_history import RungHistory
from hpo.search.pruner import in_control_group, rule_of
from replay.clock import Run
from replay.curves import Curves
from replay.proposals import Proposals
from studies.config.definition import PrunerSection, RuleName

NOTHING, OURS = "no pruning", "ours"
# How many finished trials a small search wants at least: `finalists.count`.
WANTED = 4
# The one ablation that sees an earlier rung than the shipped study has.
EARLIER = "ours, judged at an earlier rung too"
FIFTH, ALL_SCENES, EVERY_RUNG = "a fifth of the scenes at the first rung", "all scenes at the first rung", "every rung"


class WithPruner:
    """A search under one of Optuna's pruners; without one, only the last rung is evaluated.

    Args:
        name: what to call it.
        curves: the configurations.
        sampler: "random" or "tpe".
        seed: of the proposals.
        pruner: Optuna's.
        by_scene: report every scene's recall as a step of its own, as the Wilcoxon pruner wants it.
        rungs: gives the positions of the rungs that are evaluated; all by default.
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
        rungs: Callable[[Curves], Sequence[int]] | None = None,
    ) -> None:
        last = len(curves.updates) - 1
        self.name = name
        self.rungs = (last,) if isinstance(pruner, optuna.pruners.NopPruner) else tuple(range(last + 1))
        if rungs is not None:
            self.rungs = tuple(rungs(curves))
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


class Told:
    """A search that is told at the first rung which configurations end well: what no pruner can fall below.

    Args:
        name: what to call it.
        curves: the configurations.
        sampler: "random" or "tpe".
        seed: of the proposals.
        wanted: the recall in the end from which a configuration goes on.
    """

    def __init__(self, name: str, curves: Curves, sampler: str, seed: int, wanted: float) -> None:
        self.name, self.rungs = name, first_and_end(curves)
        self._curves, self._wanted = curves, wanted
        self._proposals = Proposals(curves, sampler, seed, optuna.pruners.NopPruner())

    def next(self) -> Run | None:
        """A new configuration."""
        return self._proposals.ask()

    def report(self, run: Run) -> bool:
        """Goes on if it will be good enough."""
        goes_on = bool(self._curves.final[run.row] >= self._wanted)
        if not goes_on:
            self._proposals.stop(run.row)
        return goes_on

    def finish(self, run: Run) -> None:
        """Tells the sampler."""
        self._proposals.finish(run.row)


class Ours:
    """A search under the production rules of `hpo.pruning`.

    Args:
        name: what to call it.
        curves: the configurations.
        sampler: "random" or "tpe".
        seed: of the proposals and of the bracket that is kept.
        rule: "improvement" or "asha".
        eta: of "asha", one in so many goes on.
        keep: fraction of trials that no rule stops.
        promote: whether stopped trials are taken up again.
        rungs: gives the positions of the rungs that are evaluated; all by default.
        first: gives the rows that are tried first; none by default.
    """

    def __init__(
        self,
        name: str,
        curves: Curves,
        sampler: str,
        seed: int,
        *,
        rule: RuleName = "improvement",
        eta: int = 3,
        keep: float = 0.0,
        promote: bool = True,
        rungs: Callable[[Curves], Sequence[int]] | None = None,
        first: Callable[[Curves, int], Sequence[int]] | None = None,
    ) -> None:
        self.name, self.rungs = name, tuple(rungs(curves) if rungs else range(len(curves.updates)))
        self._curves, self._seed, self._keep, self._promote = curves, seed, keep, promote
        self._rule = rule_of(rule, eta, resumes=promote)
        rows = first(curves, seed) if first else ()
        self._proposals = Proposals(curves, sampler, seed, optuna.pruners.NopPruner(), rows)
        self.history = RungHistory([curves.updates[rung] for rung in self.rungs])
        self._paused: set[int] = set()
        self._going: set[int] = set()

    def next(self) -> Run | None:
        """A stopped configuration that the rule promotes, else a new one, else one to finish with."""
        if self._promote and (found := self._rule.promotion(self.history, self._paused, "recall")):
            return self._resume(found)
        asked = self._proposals.ask()
        if asked is not None:
            self._going.add(asked.row)
            return asked
        found = completion(self.history, self._paused, finished=len(self._going), wanted=WANTED)
        return self._resume(found) if found and self._promote else None

    def _resume(self, found: Promotion) -> Run:
        self._paused.remove(found.trial)
        self._going.add(found.trial)
        self._proposals.take_up(found.trial, found.rung, found.reason)
        return Run(found.trial, self.rungs[found.rung])

    def report(self, run: Run) -> bool:
        """Adds the result to the history and decides."""
        curves, rung = self._curves, self.rungs.index(run.rung)
        value = float(curves.means[run.row, run.rung])
        evaluations = curves.evaluation[run.row, list(self.rungs[: rung + 1])].sum()
        self.history.add(run.row, rung, value, float(curves.training[run.row, run.rung] + evaluations))
        self._proposals.trials[run.row].report(value, curves.updates[run.rung])
        control = in_control_group(run.row, self._keep, self._seed)
        decision = decide(self._rule, self.history, run.row, rung, control=control)
        if decision.prune:
            self._proposals.stop(run.row)
            self._going.discard(run.row)
            if decision.by_rule:
                self._paused.add(run.row)
        return not decision.prune

    def finish(self, run: Run) -> None:
        """Tells the sampler."""
        self._proposals.finish(run.row)


def third_and_end(curves: Curves) -> tuple[int, int]:
    """The rung nearest to a third of the last one's updates, and the last one."""
    last = len(curves.updates) - 1
    far = [abs(math.log(3 * updates / curves.updates[-1])) for updates in curves.updates[:-1]]
    return far.index(min(far)), last


def first_and_end(curves: Curves) -> tuple[int, int]:
    """The first rung and the last one."""
    return 0, len(curves.updates) - 1


def every_other(curves: Curves) -> tuple[int, ...]:
    """The last rung, the last but two, and so on."""
    last = len(curves.updates) - 1
    return tuple(range(last % 2, last + 1, 2))


def shipped_rungs(curves: Curves) -> tuple[int, ...]:
    """As the shipped studies have them: of classification every other one that was recorded."""
    return every_other(curves) if curves.classifies else tuple(range(len(curves.updates)))


def fifth(curves: Curves) -> Curves:
    """With a fifth of the scenes at the first rung."""
    return curves.shipped().on_fewer_scenes(5)


def shipped_scenes(curves: Curves) -> Curves:
    """As the shipped studies evaluate the first rung: classification on a fifth of the episodes."""
    return fifth(curves) if curves.classifies else curves.shipped()


# How a system is made: of curves, sampler and seed.
Factory = Callable[[Curves, str, int], Any]
# What a system sees of the curves.
Seen = Callable[[Curves], Curves]


def _optuna(
    name: str,
    make: Callable[[Curves], optuna.pruners.BasePruner],
    rungs: Callable[[Curves], Sequence[int]] | None = None,
) -> Factory:
    return lambda curves, sampler, seed: WithPruner(
        name, curves, sampler, seed, make(curves), by_scene=name == "Wilcoxon", rungs=rungs
    )


def ours(name: str, **settings: Any) -> Factory:
    """Ours with other settings than it ships with."""
    settings = {"keep": PrunerSection().keep, "rungs": shipped_rungs} | settings
    return lambda curves, sampler, seed: Ours(name, curves, sampler, seed, **settings)


def _halving(ratio: int) -> Callable[[Curves], optuna.pruners.BasePruner]:
    return lambda curves: optuna.pruners.SuccessiveHalvingPruner(curves.updates[0], ratio)


ASHA = "ours, ASHA, eta 3"
HALVING_OTHER = "SuccessiveHalving, every other rung"
HALVING_FIFTH = f"{HALVING_OTHER}, {FIFTH}"


def systems() -> dict[str, Factory]:
    """All that are compared, by name; "no pruning" first, which the others' costs are measured by."""
    pruners: dict[str, Callable[[Curves], optuna.pruners.BasePruner]] = {
        NOTHING: lambda _: optuna.pruners.NopPruner(),
        "Median": lambda _: optuna.pruners.MedianPruner(),
        "Percentile(75)": lambda _: optuna.pruners.PercentilePruner(75),
        "Patient+Median": lambda _: optuna.pruners.PatientPruner(optuna.pruners.MedianPruner(), patience=1),
        "SuccessiveHalving": lambda curves: _halving(curves.ratio)(curves),
        "Hyperband": lambda curves: optuna.pruners.HyperbandPruner(curves.updates[0], curves.updates[-1], curves.ratio),
        "Wilcoxon": lambda _: optuna.pruners.WilcoxonPruner(),
    }
    found = {name: _optuna(name, make) for name, make in pruners.items()}
    for name in (HALVING_OTHER, HALVING_FIFTH):
        found[name] = _optuna(name, lambda curves: _halving(curves.ratio**2)(curves), every_other)
    return found | {OURS: ours(OURS)}


def ablations() -> dict[str, Factory]:
    """Ours without one of its parts, or with another setting."""
    changes: dict[str, dict[str, Any]] = {
        "without promotion": {"promote": False},
        "nothing kept": {"keep": 0.0},
        ALL_SCENES: {},
        EVERY_RUNG: {"rungs": None},
        "judged at the first rung only": {"rungs": first_and_end},
        "judged at a third of the end only": {"rungs": third_and_end},
        FIFTH: {},
    }
    changes |= {f"ASHA, eta {eta}": {"rule": "asha", "eta": eta} for eta in (2, 3, 4, 6)}
    found = {f"ours, {name}": ours(f"ours, {name}", **change) for name, change in changes.items()}
    return found | {EARLIER: ours(EARLIER)}


# What those see that are not known by their names.
SEEN: dict[str, Seen] = {
    f"ours, {ALL_SCENES}": Curves.shipped,
    EARLIER: lambda curves: curves,
    f"ours, {FIFTH}": fifth,
    HALVING_FIFTH: fifth,
}


def seen_by(name: str, curves: Curves) -> Curves:
    """What a system sees: ours the scenes of the shipped study, others all scenes at the shipped rungs."""
    seen = SEEN.get(name, shipped_scenes if name.startswith(OURS) else Curves.shipped)
    return seen(curves)


def compared_on(curves: Curves, names: Iterable[str]) -> list[str]:
    """Those of the systems that differ from each other on these curves."""
    same = {f"ours, {ALL_SCENES}", f"ours, {EVERY_RUNG}", HALVING_OTHER, HALVING_FIFTH}
    if curves.classifies:
        same = {f"ours, {FIFTH}"}
    # Where searches are judged at every rung anyway, an earlier one is none.
    return [name for name in names if name not in same and (name != EARLIER or curves.shipped() is not curves)]
