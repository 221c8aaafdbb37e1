"""Makes of a study's document the report that the renderers write."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from hpo.reporting import adaptation, background, scoring
from hpo.reporting.blocks import Report, plural, spelled
from hpo.reporting.results import Results
from hpo.reporting.students import students


def report(document: Mapping[str, Any]) -> Report:
    """The report; sections that the document has nothing for are left out."""
    results = Results(document["evaluation"])
    written = datetime.fromisoformat(document["written"])
    sections = [
        scoring.systems(results),
        scoring.forest(results),
        adaptation.curve(results),
        scoring.scenes(results),
        scoring.losses(results),
        adaptation.transfer(results),
        scoring.pairs(results),
        background.search(document),
        students(document),
        background.inference(document),
        background.facts(document),
        background.reproduction(document),
    ]
    return Report(
        title=f"{document['study']}: how well new scenes are served",
        written=f"{written:%Y-%m-%d %H:%M %Z}".strip() + f", scenetune {document['version']}",
        verdicts=verdicts(results),
        measured=_measured(document),
        sections=[section for section in sections if section is not None],
    )


def verdicts(results: Results) -> list[str]:
    """The answer, as far as the intervals allow one."""
    if results.teacher is None:
        best = next(iter(results.systems))
        recall = results.systems[best]["recall"]
        reached = (
            "no recall is defined" if recall is None else f"{best} has the best {results.recall}, {spelled(recall)}"
        )
        return [f"Only baselines were scored: {reached}. It is what a teacher has to beat."]
    said = []
    if results.popularity is not None:
        difference = results.systems[results.teacher]["over_popularity"]
        said.append(results.verdict(f"The best teacher, {results.teacher},", results.popularity, difference))
    bar = next((name for name in results.systems if results.kind(name) == "baseline"), None)
    if bar is not None and bar != results.popularity:
        difference = results.difference(results.teacher, bar)
        said.append(results.verdict("It", f"the best baseline ({bar})", difference))
    if results.student is not None:
        difference = results.difference(results.student, results.teacher)
        said.append(results.verdict("The student", "its best teacher", difference))
    return said


def _measured(document: Mapping[str, Any]) -> str:
    """What the verdict rests on, in a sentence."""
    evaluation, data = document["evaluation"], document["data"]
    scenes, where = "scene", " that neither training nor the search ever saw, in the log's last period"
    if evaluation["part"] != "test":
        scenes, where = f"{evaluation['part']} scene", f", in the {evaluation['part']} period"
    ranked = "of the whole catalogue" if document["protocol"]["candidates"] == "all" else "of the scene"
    return (
        f"Measured on {plural(evaluation['scenes'], scenes)} of {data['source']}{where}, after "
        f"{plural(evaluation['shots'], 'interaction')} each: {evaluation['queries']:,} queries, every item {ranked} "
        f"ranked. Amounts are differences paired by scene, with 95 % intervals."
    )
