"""What commands print of results: `hpo adapt`, `run`, `baselines`, `distill` and `evaluate`."""

from __future__ import annotations

import json
from collections.abc import Sequence

from distill.evaluation import ExportEvaluation, StudentRow
from hpo.reporting.blocks import Table, Text, spelled
from hpo.reporting.results import Results
from hpo.reporting.sections.background import adaptation_sentence, inference_table, retention_sentence
from hpo.reporting.sections.report import verdicts
from hpo.reporting.sections.scoring import overview
from hpo.reporting.sections.search import control_group_sentence, finalists_sentence, search_sentence
from hpo.reporting.sections.students import students_table, undertrained_sentences, varied_students
from hpo.reporting.task_words import TaskWords, words_for
from hpo.results.outcome import AdaptResult, AdaptSearchResult, JobResult
from studies.evaluation.figures import SystemsEvaluation


def job_outcome(result: JobResult) -> list[Text | Table]:
    """Return what a job found: how good, how large, how fast, what the search cost, and where the student is."""
    evaluation, found = result.evaluation, result.search
    results = Results(evaluation)
    sentences = [
        retention_sentence(evaluation.retention),
        *undertrained_sentences(evaluation.students, f"validation {results.recall}", results.words),
        search_sentence(found),
        control_group_sentence(found),
        finalists_sentence(evaluation.finalists, evaluation.reference),
        *verdicts(results),
        f"student: {result.export}",
        f"report: {result.report}",
    ]
    return [
        overview(results),
        inference_table(evaluation.inference),
        _students(evaluation.students, results.recall, results.words),
        *map(Text, sentences),
    ]


def adapt_outcome(result: AdaptResult) -> list[Text | Table]:
    """Return what the encoder was trained on, how far its losses fell, and what that changes on validation."""
    adaptation = result.adaptation
    losses = [[name, f"{first:.3f}", f"{last:.3f}"] for name, (first, last) in adaptation.losses.items()]
    change = (
        f"validation {result.metric} of the baseline {result.baseline!r}: {spelled(result.before, '{:.3f}')} before, "
        f"{spelled(result.after, '{:.3f}')} after, {spelled(result.gain, '{:+.3f}')} paired"
    )
    written = [] if result.folder is None else [Text(f"encoder: {result.folder}")]
    table = Table("", ["objective", "loss at the start", "at the end"], losses)
    return [table, Text(adaptation_sentence(adaptation)), Text(change), *written]


def adapt_search_outcome(result: AdaptSearchResult) -> list[Text | Table]:
    """Return the settings that were tried, whether the best one gains, and the table for the study file."""
    rows = [
        [
            " + ".join(trial.objectives),
            str(trial.steps),
            f"{trial.lr:.2g}",
            f"{trial.recall:.4f}",
            spelled(trial.gain, "{:+.4f}"),
            f"{trial.seconds / 60:.1f}",
        ]
        for trial in result.trials
    ]
    head = ["objectives", "steps", "lr", "recall", "over the pretrained encoder", "minutes"]
    title = f"Validation {result.metric}, mean of {' and '.join(result.learners)}; pretrained: {result.before:.4f}"
    again = f"the best one on other draws of the episodes: {spelled(result.redrawn, '{:+.4f}')}"
    if result.redrawn.low > 0:
        table = "".join(f"\n  {name} = {json.dumps(value)}" for name, value in result.table.items())
        advice = f"to train the encoder so before the search, put this into the study file:\n  [teacher.adapt]{table}"
    else:
        advice = "no setting is surely better than the pretrained encoder: leave [teacher.adapt] out"
    return [Table(title, head, rows), *map(Text, (*result.failed, again, advice))]


def baselines_outcome(evaluation: SystemsEvaluation) -> Table:
    """Return every baseline with its main metrics; the report has the others."""
    return overview(Results(evaluation))


def distillation_outcome(students: Sequence[StudentRow], metric: str, words: TaskWords) -> list[Text | Table]:
    """Return the students, and whether the best was trained too little."""
    sentences = undertrained_sentences(students, f"validation {metric}", words)
    return [_students(students, metric, words), *map(Text, sentences)]


def _students(students: Sequence[StudentRow], metric: str, words: TaskWords) -> Table:
    """Return the students, best first, with the settings in which they differ; the report has all."""
    return students_table(f"Students, on validation {words.scene}s", varied_students(students), metric)


def export_outcome(found: ExportEvaluation) -> list[Text | Table]:
    """Return the recall of an export as measured now, and as its manifest has it."""
    words = words_for(found.task, found.kind)
    head = f"{found.study}, {found.format}: test {found.metric} over {found.scenes} {words.scene}s"
    now, then = spelled(found.recall, "{:.4f}"), spelled(found.recorded, "{:.4f}")
    return [Text(head), Text(f"  now       {now}"), Text(f"  manifest  {then}")]
