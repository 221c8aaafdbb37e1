"""The searches that are compared: ours over the production decisions, Optuna's pruners by their own interface."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import optuna

from hpo.search.asha import Promotion, RungHistory, completion, decide, promotion
from hpo.search.pruner import in_control_group
from replay.clock import Run
from replay.curves import Curves
from replay.gain import ByGain
from replay.proposals import Proposals
from studies.config.definition import PrunerSection

NOTHING, OURS, GAIN = "no pruning", "ours", "ours, by gain per second"
# How many finished trials a small search wants at least: `finalists.count`.
WANTED = 4
# Of both tasks.
SHIPPED: dict[str, Any] = PrunerSection().model_dump(include={"eta", "keep"})
# The ablations that see other curves than the rest do.
EARLIER, FEWER = "ours, judged at an earlier rung too", "ours, a third of the scenes at the first rung"
FIFTH = "a fifth of the scenes at the first rung"
WIDE_FEWER, GAIN_FEWER = f"ours, {FIFTH}, every other rung, eta 4", f"{GAIN}, {FIFTH}"
GAIN_FEWER_ENDS = f"{GAIN_FEWER}, judged there and at the end"
SEEN: dict[str, Callable[[Curves], Curves]] = {
    EARLIER: lambda curves: curves,
    FEWER: lambda curves: curves.shipped().on_fewer_scenes(),
    **{name: lambda curves: curves.shipped().on_fewer_scenes(5) for name in (WIDE_FEWER, GAIN_FEWER, GAIN_FEWER_ENDS)},
}


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
        rungs: gives the positions of the rungs that are evaluated; all by default.
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
        rungs: Callable[[Curves], Sequence[int]] | None = None,
    ) -> None:
        self.name, self.rungs = name, tuple(rungs(curves) if rungs else range(len(curves.updates)))
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


# How a system is made: of curves, sampler and seed.
Factory = Callable[[Curves, str, int], Any]


def _optuna(name: str, make: Callable[[Curves], optuna.pruners.BasePruner]) -> Factory:
    return lambda curves, sampler, seed: WithPruner(
        name, curves, sampler, seed, make(curves), by_scene=name == "Wilcoxon"
    )


def ours(name: str, **settings: Any) -> Factory:
    """Ours with other settings than it ships with."""
    return lambda curves, sampler, seed: Ours(name, curves, sampler, seed, **settings)


def by_gain(name: str, **settings: Any) -> Factory:
    """What would judge by cost in place of ranks."""
    return lambda curves, sampler, seed: ByGain(name, curves, sampler, seed, **settings)


def systems() -> dict[str, Factory]:
    """All that are compared, by name; "no pruning" first, which the others' costs are measured by."""
    pruners: dict[str, Callable[[Curves], optuna.pruners.BasePruner]] = {
        NOTHING: lambda _: optuna.pruners.NopPruner(),
        "Median": lambda _: optuna.pruners.MedianPruner(),
        "Percentile(75)": lambda _: optuna.pruners.PercentilePruner(75),
        "Patient+Median": lambda _: optuna.pruners.PatientPruner(optuna.pruners.MedianPruner(), patience=1),
        "SuccessiveHalving": lambda curves: optuna.pruners.SuccessiveHalvingPruner(curves.updates[0], curves.ratio),
        "Hyperband": lambda curves: optuna.pruners.HyperbandPruner(curves.updates[0], curves.updates[-1], curves.ratio),
        "Wilcoxon": lambda _: optuna.pruners.WilcoxonPruner(),
    }
    found = {name: _optuna(name, make) for name, make in pruners.items()}
    return found | {OURS: ours(OURS, **SHIPPED), GAIN: by_gain(GAIN)}


def ablations() -> dict[str, Factory]:
    """Ours without one of its parts, or with another setting."""
    changes: dict[str, dict[str, Any]] = {
        "without promotion": {"promote": False},
        "nothing kept": {"keep": 0.0},
        "a tenth kept": {"keep": 0.1},
        "eta 2": {"eta": 2},
        "eta 4": {"eta": 4},
        "judged at a third of the end only": {"rungs": third_and_end},
    }
    found = {f"ours, {name}": ours(f"ours, {name}", **(SHIPPED | change)) for name, change in changes.items()}
    found |= {name: ours(name, **SHIPPED) for name in (EARLIER, FEWER)}
    found[WIDE_FEWER] = ours(WIDE_FEWER, **(SHIPPED | {"eta": 4, "rungs": every_other}))
    gains: dict[str, dict[str, Any]] = {
        "costs not told apart": {"by_cost": False},
        "judged at the first rung and the end": {"rungs": first_and_end},
        "judged at a third of the end only": {"rungs": third_and_end},
    }
    found |= {f"{GAIN}, {name}": by_gain(f"{GAIN}, {name}", **settings) for name, settings in gains.items()}
    found[GAIN_FEWER_ENDS] = by_gain(GAIN_FEWER_ENDS, rungs=first_and_end)
    return found | {GAIN_FEWER: by_gain(GAIN_FEWER)}
