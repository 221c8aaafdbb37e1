"""What a job found: the evaluation, what the search cost, and the folders of export and report."""

from __future__ import annotations

from typing import Any

from distill.evaluation import StudyEvaluation
from studies.evaluation.figures import AdaptationFacts, Figure, Figures, Settings
from studies.evaluation.intervals import Interval

# Trials of which importance is told: five in the best tenth, which Optuna's documentation asks for.
ENOUGH_TRIALS = 50


class SearchFigures(Figures):
    """What a search took.

    Attributes:
        trials: Trials that count against the budget.
        states: Number of trials per state, in lower case.
        cost_seconds: Measured cost of all trials.
        unpruned_seconds: What they would have cost without pruning.
        control_group: The finished trials of the no-prune control group.
        false_prunes: Of these, the ones that ended among the best: pruning would have lost them.
        best: How many trials count as the best.
    """

    trials: int
    states: dict[str, int]
    cost_seconds: float
    unpruned_seconds: float
    control_group: tuple[int, ...]
    false_prunes: tuple[int, ...]
    best: int


class RungFigures(Figures):
    """A trial at one rung; the cost is None while it is not recorded."""

    step: int
    recall: Figure
    cost_seconds: Figure


class TrialFigures(Figures):
    """One trial of a search.

    Attributes:
        trial: Its number.
        state: In lower case.
        params: Its hyperparameters.
        rungs: The rungs that it reached.
        recall: At the last of these; None where there is none.
        cost_seconds: Measured cost.
        reason: The pruner's, or the error.
    """

    trial: int
    state: str
    params: Settings
    rungs: tuple[RungFigures, ...]
    recall: Figure
    cost_seconds: float
    reason: str


class Importance(Figures):
    """How much each parameter matters.

    Attributes:
        step: Updates after which the trials are compared.
        trials: How many were.
        shares: Each parameter's part of the whole, most important first. One with a range of its own for a learner is
            named after the learner too.
    """

    step: int
    trials: int
    shares: dict[str, float]


class SearchHistory(SearchFigures):
    """What a search took, with all of its trials, and how much each parameter matters, where there are enough."""

    history: tuple[TrialFigures, ...]
    importance: Importance | None = None


class AdaptResult(Figures):
    """What `hpo adapt` prints.

    Attributes:
        study: Name of the study file.
        task: The study's.
        metric: The name of the recall.
        adaptation: What the encoder was adapted on.
        sha256: Digest of the adapted weights.
        baseline: The untrained system that ranks by the encoder alone.
        before: Its validation recall with the pretrained encoder.
        after: The same with the adapted one.
        gain: The difference, paired by scene.
        folder: Where the encoder was written, if it was.
    """

    study: str
    task: str
    metric: str
    adaptation: AdaptationFacts
    sha256: str
    baseline: str
    before: Interval
    after: Interval
    gain: Interval
    folder: str | None


class AdaptTrial(Figures):
    """One setting of `[teacher.adapt]` that was tried.

    Attributes:
        objectives: What the encoder was trained with.
        steps: Updates.
        lr: Peak learning rate.
        recall: Validation recall, the mean over the cheap learners.
        gain: The difference from the pretrained encoder's, paired by scene.
        seconds: What training the encoder took.
    """

    objectives: tuple[str, ...]
    steps: int
    lr: float
    recall: float
    gain: Interval
    seconds: float


class AdaptSearchResult(Figures):
    """What `hpo adapt --trials` prints.

    Attributes:
        study: Name of the study file.
        metric: The name of the recall.
        learners: The cheap learners.
        before: Their mean validation recall with the pretrained encoder.
        trials: The settings, best first.
        failed: Why others could not be trained.
        redrawn: The best one's gain on other draws of the validation episodes.
        table: The best one's keys for `[teacher.adapt]`.
    """

    study: str
    metric: str
    learners: tuple[str, ...]
    before: float
    trials: tuple[AdaptTrial, ...]
    failed: tuple[str, ...]
    redrawn: Interval
    table: dict[str, Any]


class JobResult(Figures):
    """What `hpo run` prints."""

    study: str
    evaluation: StudyEvaluation
    search: SearchFigures
    export: str
    report: str
