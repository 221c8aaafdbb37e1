"""A rival by freezing and thawing: a Gaussian process says which configuration goes on, new or paused, and how far.

After Swersky, Snoek and Adams, "Freeze-Thaw Bayesian Optimization", arXiv:1406.3896, with the process and its kernels
from scikit-learn: one Matern kernel over parameters and log updates in place of their kernel of decaying curves.
"""

from __future__ import annotations

import warnings

import numpy as np
import numpy.typing as npt
from scipy.stats import norm
from sklearn.ensemble import ExtraTreesRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Kernel, Matern, WhiteKernel

from replay.clock import Run
from replay.curves import Curves, Floats
from replay.proposals import places, search_of

# Configurations that are measured at random before anything is modelled.
INITIAL = 8
# The most results that the kernel is fitted to: a fit to more takes many seconds.
KERNEL = 150


def expected_improvement(mean: Floats, deviation: Floats, best: float) -> Floats:
    """Of normally distributed values over the best so far."""
    ahead = mean - best
    scaled = ahead / deviation
    found: Floats = ahead * norm.cdf(scaled) + deviation * norm.pdf(scaled)
    return found


class FreezeThaw:
    """A search that chooses from all configurations of the table.

    What counts is the expected improvement at the last rung, over the seconds that are left until there. (Without the
    seconds it begins new configurations for ever: what is known best promises least.)

    Args:
        name: what to call it.
        curves: the configurations, with parameters.
        seed: of the first ones and of the models.
    """

    def __init__(self, name: str, curves: Curves, seed: int) -> None:
        self.name, self.rungs = name, tuple(range(len(curves.updates)))
        self._curves, self._seed = curves, seed
        self._fresh = [int(row) for row in np.random.default_rng(seed).permutation(len(curves.test))]
        self._places = places(curves, search_of(curves), far=1.0)
        self._time = np.log(np.array(curves.updates) / curves.updates[-1]) / np.log(curves.updates[0])
        self._reached: dict[int, int] = {}
        self._left = set(self._fresh)  # neither in training nor at its end
        self._kernel: Kernel | None = None
        self._process: GaussianProcessRegressor | None = None
        self._costs: ExtraTreesRegressor | None = None
        # How many results they were fitted to.
        self._kernel_of = self._process_of = 0

    def next(self) -> Run | None:
        """One of the first, else the configuration of the largest expected improvement; None when all have ended."""
        if not self._left:
            return None
        row = self._fresh[0] if len(self._reached) < INITIAL and self._fresh else self._best()
        self._left.remove(row)
        if row not in self._reached:
            self._fresh.remove(row)
        return Run(row, self._reached.get(row, -1))

    def report(self, run: Run) -> bool:
        """Notes the rung; everything but a last rung is paused."""
        self._reached[run.row] = run.rung
        if run.rung == self.rungs[-1]:
            return True
        if np.isfinite(self._curves.means[run.row, run.rung]):
            self._left.add(run.row)
        return False

    def finish(self, run: Run) -> None:
        """Nothing more to note."""

    def _seen(self) -> tuple[Floats, Floats]:
        """Places with time, and recalls, of every rung that was reported."""
        cells = [(row, rung) for row, last in sorted(self._reached.items()) for rung in range(last + 1)]
        values = np.array([self._curves.means[cell] for cell in cells])
        inputs = np.array([[*self._places[row], self._time[rung]] for row, rung in cells])
        fine = np.isfinite(values)
        return inputs[fine], values[fine]

    def _best(self) -> int:
        inputs, values = self._seen()
        rows = np.array(sorted(self._left))
        # A twentieth more results changes little, and a fit takes a tenth of a second.
        if self._process is None or len(values) > 1.05 * self._process_of:
            self._fit(inputs, values)
        assert self._process is not None
        ends = np.column_stack([self._places[rows], np.full(len(rows), self._time[-1])])
        mean, deviation = self._process.predict(ends, return_std=True)
        ended = [self._curves.final[row] for row, rung in self._reached.items() if rung == self.rungs[-1]]
        gain = expected_improvement(mean, deviation.clip(1e-9), max(ended, default=float(values.max())))
        return int(rows[(gain / self._seconds(rows)).argmax()])

    def _fit(self, inputs: Floats, values: Floats) -> None:
        """The process and the costs; the process's kernel is fitted anew when results have doubled, up to `KERNEL`."""
        again = self._kernel is None or 2 * self._kernel_of <= len(values) <= KERNEL
        if self._kernel is None:
            scales = np.ones(inputs.shape[1])
            self._kernel = ConstantKernel() * Matern(scales, (0.05, 50.0), nu=2.5) + WhiteKernel(0.01, (1e-4, 1.0))
        process = GaussianProcessRegressor(self._kernel, optimizer="fmin_l_bfgs_b" if again else None, normalize_y=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            process.fit(inputs, values)
        if again:
            self._kernel, self._kernel_of = process.kernel_, len(values)
        self._process, self._process_of = process, len(values)
        begun, known = self._paces()
        self._costs = ExtraTreesRegressor(30, random_state=self._seed).fit(self._places[begun], np.log(known))

    def _paces(self) -> tuple[npt.NDArray[np.int64], Floats]:
        """What has begun, with its seconds of an update and of an evaluation so far."""
        begun = np.array(sorted(self._reached))
        last = np.array([self._reached[row] for row in begun])
        pace = self._curves.training[begun, last] / np.array(self._curves.updates)[last]
        return begun, np.column_stack([pace, self._curves.evaluation[begun, last]]).clip(1e-6)

    def _seconds(self, rows: npt.NDArray[np.int64]) -> Floats:
        """To the last rung: by a configuration's own pace and evaluations, or by those of others like it."""
        assert self._costs is not None
        begun, known = self._paces()
        forecast = np.exp(self._costs.predict(self._places[rows]))
        own = {row: place for place, row in enumerate(begun)}
        for place, row in enumerate(rows):
            if row in own:
                forecast[place] = known[own[row]]
        rung = np.array([self._reached.get(row, -1) for row in rows])
        done = np.where(rung >= 0, np.array(self._curves.updates)[rung], 0)
        found: Floats = forecast[:, 0] * (self._curves.updates[-1] - done) + forecast[:, 1] * (
            len(self.rungs) - 1 - rung
        )
        return found
