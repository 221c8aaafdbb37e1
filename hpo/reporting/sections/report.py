"""The sections of a study's report, from its document."""

from __future__ import annotations

from datetime import datetime

from hpo.reporting.blocks import Report, plural, spelled
from hpo.reporting.document import StudyDocument
from hpo.reporting.results import Results
from hpo.reporting.sections import adaptation, background, classes, scoring
from hpo.reporting.sections.reasons import reasons
from hpo.reporting.sections.search import gain_sentences, search
from hpo.reporting.sections.students import students
from hpo.reporting.task_words import words_of


def report(document: StudyDocument) -> Report:
    """Return the report; sections without any content are left out."""
    results = Results(document.evaluation)
    written = datetime.fromisoformat(document.written)
    sections = [
        scoring.systems(results),
        scoring.forest(results),
        adaptation.curve(results),
        scoring.scenes(results),
        scoring.losses(results),
        adaptation.transfer(results),
        classes.classes(results),
        scoring.pairs(results),
        search(document),
        students(document),
        reasons(document),
        background.inference(document),
        background.data_and_protocol(document),
        background.reproduction(document),
    ]
    return Report(
        title=f"{document.study}: {results.words.title}",
        written=f"{written:%Y-%m-%d %H:%M %Z}".strip() + f", scenetune {document.version}",
        verdicts=verdicts(results),
        measured=_measured(document),
        sections=[section for section in sections if section is not None],
    )


def verdicts(results: Results) -> list[str]:
    """Return the answer, as far as the intervals allow one."""
    if results.teacher is None:
        best, system = next(iter(results.systems.items()))
        reached = f"{best} has the best {results.recall}, {spelled(system.recall)}"
        return [f"Only baselines were scored: {reached}. It is what a teacher has to beat."]
    said = []
    if results.reference is not None:
        difference = results.systems[results.teacher].over_reference
        said.append(results.verdict(f"The best teacher, {results.teacher},", results.reference, difference))
    bar = next((name for name in results.systems if results.kind(name) == "baseline"), None)
    if bar is not None and bar != results.reference:
        paired = results.difference(results.teacher, bar)
        said.append(results.verdict("It", f"the best baseline ({bar})", paired))
    said += gain_sentences(results)
    if results.student is not None:
        paired = results.difference(results.student, results.teacher)
        said.append(results.verdict("The student", "its best teacher", paired))
    if results.untrained is not None:
        paired = results.difference(results.student, results.untrained)
        said.append(results.verdict("It", "the same student before its training", paired))
    if results.alone is not None:
        paired = results.difference(results.student, results.alone)
        said.append(results.verdict("It", "the same student trained on the labels alone", paired))
    return said


def _measured(document: StudyDocument) -> str:
    """Return what the verdict rests on, in a sentence."""
    evaluation, words = document.evaluation, words_of(document.evaluation)
    data, predicted = document.data, words.predicted(document.protocol)
    scenes, where = words.scene, words.unseen
    if evaluation.part != "test":
        scenes, where = f"{evaluation.part} {words.scene}", words.part.format(part=evaluation.part)
    return (
        f"Measured on {plural(evaluation.scenes, scenes)} of {data.source}{where}, after "
        f"{words.support(evaluation.shots)}{words.in_each}: {evaluation.queries:,} queries, {predicted}. "
        f"Amounts are differences paired by {words.scene}, with 95 % intervals."
    )
