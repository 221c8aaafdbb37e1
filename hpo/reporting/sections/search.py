"""The section on the search: what was tried, what it cost, what pruning saved, and which trials won."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

from distill.evaluation import Finalists, StudyEvaluation
from hpo.reporting import drawings
from hpo.reporting.blocks import (
    NOTHING,
    Block,
    Cell,
    Drawing,
    Drawings,
    Row,
    Section,
    Table,
    Text,
    figure,
    plural,
    settings,
)
from hpo.reporting.document import StudyDocument
from hpo.reporting.results import Results
from hpo.results.outcome import ENOUGH_TRIALS, Importance, SearchFigures, TrialFigures
from hpo.status.console import duration, state_counts

# Each unit of cost with its seconds, and the longest search that is drawn in it.
UNITS = (("seconds", 1, 300), ("minutes", 60, 3 * 3600), ("hours", 3600, float("inf")))


def search(document: StudyDocument) -> Section | None:
    """Return what was tried, what it cost and what it reached."""
    found, evaluation = document.search, document.finished
    if found is None or evaluation is None or not found.history:
        return None
    metric = f"validation {evaluation.metric}"
    teachers: list[Row] = [
        [str(teacher.trial), figure(teacher.validation_recall, "{:.4f}"), settings(teacher.params)]
        for teacher in evaluation.teachers
    ]
    blocks: list[Block] = [
        Text(search_sentence(found)),
        Text(control_group_sentence(found)),
        *_progress(found.history, metric),
        Text(f"What matters: {importance_sentence(found.importance)}"),
        _trial_table(found.history, metric),
        Text(finalists_sentence(evaluation.finalists, evaluation.reference)),
        _finalist_table(evaluation.finalists, metric),
        Table("The teachers: its best trials", ["trial", metric, "parameters"], teachers),
    ]
    return Section("search", "The search", blocks)


def search_sentence(found: SearchFigures) -> str:
    """Return how many trials ran, at what cost, and what pruning saved."""
    cost, full = found.cost_seconds, found.unpruned_seconds
    saved = f"{1 - cost / full:.0%}" if full else "0%"
    return (
        f"The search ran {plural(found.trials, 'trial')} ({state_counts(found.states)}) in {duration(cost)} of "
        f"training and evaluation; unpruned it would have taken about {duration(full)}: pruning saved {saved}."
    )


def control_group_sentence(found: SearchFigures) -> str:
    """Return what the no-prune control group says of the pruning."""
    group, lost = found.control_group, found.false_prunes
    if not group:
        return "No trial of the control group has finished, so nothing here says whether pruning lost a good one."
    would = ", ".join(f"trial {number}" for number in lost) if lost else "none"
    stopped = "the rule would have stopped it" if len(group) == 1 else "the rule would have stopped them"
    return (
        f"{plural(len(group), 'trial')} of the control group ran to the end although {stopped}, to measure what "
        f"pruning loses: {would} ended among the best {found.best}."
    )


def importance_sentence(found: Importance | None) -> str:
    """Return how much each parameter matters."""
    if found is None:
        return f"too few trials were evaluated to tell; {ENOUGH_TRIALS} at one rung are enough."
    shares = ", ".join(f"{name} {share:.0%}" for name, share in found.shares.items())
    return (
        f"{shares}. These are shares of what sets the best tenth apart from the others (PED-ANOVA), of "
        f"{plural(found.trials, 'trial')} after {plural(found.step, 'update')}, those stopped there too."
    )


def finalists_sentence(found: Finalists, reference: str) -> str:
    """Return which of the best trials leads when they are re-evaluated, and how much of its lead was luck."""
    if not found.draws:
        return "All rows of validation were scored in the search: there are no others to re-evaluate the finalists on."
    first, searched = found.ranked[0], max(found.ranked, key=lambda each: (each.searched, -each.trial))
    again = f"{plural(found.draws, 'other draw')} of supports and queries"
    led = "still leads" if first.trial == searched.trial else f"no longer leads, trial {first.trial} does"
    return (
        f"Re-evaluated on {again}, the search's best, trial {searched.trial}, {led}; "
        f"{found.optimism:+.4f} of its lead over {reference} came from having been chosen."
    )


def gain_sentences(results: Results) -> list[str]:
    """Return what searching was worth on the test scenes: its best trial beside where it started."""
    if not isinstance(results.evaluation, StudyEvaluation):
        return []
    found, said = results.evaluation.search_gain, []
    default, first = found.default, found.first
    middle = "the default configuration, the middle of the search space"
    if default is None:
        said.append(f"What the search adds to {middle}, is not known: {found.unfinished}.")
    elif default.gain is None:
        said.append(f"The search's best trial is {middle}: searching found nothing that validation prefers.")
    else:
        said.append(results.verdict("The search's best trial", f"{middle} (trial {default.trial})", default.gain))
    if first is None or (default is not None and first.trial == default.trial):
        return said
    few = f"first {found.first_trials} trials"
    if first.gain is None:
        said.append(f"It is one of the {few}.")
    else:
        said.append(results.verdict("It", f"the best of the {few} (trial {first.trial})", first.gain))
    return said


def _finalist_table(found: Finalists, metric: str) -> Table:
    rows: list[Row] = [
        [str(each.trial), *(figure(value, "{:.4f}") for value in (each.searched, each.redrawn, each.recall))]
        for each in found.ranked
    ]
    heads = ["trial", "in the search", "on the other draws", "over all, chosen by"]
    return Table(f"The finalists, {metric}", heads, rows)


def _progress(history: Sequence[TrialFigures], metric: str) -> list[Block]:
    """Return the trials in order against what they cost together; nothing if none has a recall."""
    costs = list(accumulate(trial.cost_seconds for trial in history))
    unit, seconds = next((unit, seconds) for unit, seconds, longest in UNITS if costs[-1] <= longest)
    trials = [
        drawings.Trial(cost / seconds, recall, trial.state == "complete")
        for trial, cost in zip(history, costs, strict=True)
        if (recall := _reached(trial)) is not None
    ]
    if not trials:
        return []
    label = f"{metric} of {plural(len(trials), 'trial')} against the cost so far"
    caption = (
        "Trials in the order of their numbers, each at the cost of all up to and with it: work, not waiting, so that "
        "several workers do not make it shorter. A pruned trial is at the recall it had when it was stopped."
    )
    return [Drawings([Drawing(drawings.history(trials, unit, metric, label), caption)])]


def _trial_table(history: Sequence[TrialFigures], metric: str) -> Table:
    rows: list[Row] = []
    for trial in history:
        params = dict(trial.params)
        learner = str(params.pop("learner", NOTHING))
        figures = [figure(_reached(trial), "{:.4f}"), Cell(duration(trial.cost_seconds))]
        rows.append([str(trial.trial), *figures, trial.state, trial.reason, learner, settings(params)])
    return Table("All trials", ["trial", metric, "cost", "state", "reason", "learner", "parameters"], rows)


def _reached(trial: TrialFigures) -> float | None:
    """Return a trial's recall: its own, or that of its last rung."""
    recalls = [rung.recall for rung in trial.rungs if rung.recall is not None]
    return trial.recall if trial.recall is not None else recalls[-1] if recalls else None
