"""The note on a study's page: what was found, what it cost, what it rests on, and which commands come next."""

from __future__ import annotations

import math
import shlex

import numpy as np

from hpo import artifacts
from hpo.dashboard.study_facts import Reached, StudyFacts
from hpo.ownership import distillation_name
from hpo.reporting.blocks import (
    Cell,
    Code,
    Commands,
    Items,
    Link,
    Row,
    Section,
    Table,
    Text,
    Words,
    plural,
    settings,
    spelled,
)
from hpo.reporting.renderers.markdown import render_sections
from hpo.reporting.results import Results
from hpo.reporting.sections.scoring import recall_table
from hpo.reporting.sections.search import (
    control_group_sentence,
    gain_sentences,
    importance_sentence,
    search_sentence,
)
from hpo.reporting.sections.students import students_table, undertrained_sentences
from hpo.reporting.study_report import search_figures
from hpo.reporting.task_words import TaskWords, words_for
from hpo.status.console import duration, state_counts
from studies.config.spec import StudySpec
from studies.evaluation.intervals import bootstrap
from studies.learners.registry import LEARNERS

TOP = 5
# What people write below it stays.
END = "\n\n---\n*Written by hpo; text below this line stays.*\n"


def end_of(old: str) -> str:
    """Return the end of a new note: the mark, and the text that people have written below it in the old one."""
    return END + old.partition(END)[2]


def of_search(facts: StudyFacts) -> str:
    """Return the note of a search, in Markdown."""
    sections = [_learners(facts), _pruning(facts), _files(facts), _test(facts), _protocol(facts), _commands(facts)]
    best = [_leaderboard(facts)] if facts.ranked else []
    return _rendered(_standing(facts), *best, *sections)


def of_distillation(facts: StudyFacts) -> str:
    """Return the note of a distillation, in Markdown."""
    name = shlex.quote(facts.spec.name)
    next_steps = Commands([f"hpo distill {name}", f"hpo export {name} --out DIR"])
    test = _test(facts) if facts.evaluation else None
    return _rendered(_students(facts), test, Section("commands", "Next", [next_steps]))


def _rendered(first: Section, *others: Section | None) -> str:
    parts = render_sections([first]) + render_sections([section for section in others if section is not None], 3)
    return "\n\n".join(parts)


def _words(facts: StudyFacts) -> TaskWords:
    return words_for(facts.spec.task, facts.spec.protocol.kind)


def _standing(facts: StudyFacts) -> Section:
    shot, protocol = facts.shot, facts.spec.protocol
    said = _words(facts)
    counts = state_counts(shot.states) if shot.begun else "no trial yet"
    scenes = len(facts.finished[-1].scenes) if facts.finished else 0
    where = f" on {plural(scenes, f'validation {said.scene}')}" if scenes else ""
    ended = f" The search has ended: {shot.ended_by}." if shot.finished and shot.ended_by else ""
    standing = (
        f"{shot.spent} of {shot.budget} trials ({counts}).{ended} {facts.metric} after "
        f"{said.support(protocol.support_shots)}{where}, intervals of 95 % over {said.scene}s."
    )
    return Section("study", facts.spec.name, [Text(standing)])


def _students(facts: StudyFacts) -> Section:
    finished = [row for row in facts.students if row.state == "complete" and row.recall is not None]
    counts = (
        f"{plural(len(facts.students), 'trial')}, {len(finished)} finished. {facts.metric} is on validation "
        f"{_words(facts).scene}s, "
        "time and parameters are over those of the teacher's encoder."
    )
    blocks: list[Text | Table] = [Text(counts)]
    if finished:
        best = sorted(finished, key=lambda row: -(row.recall or 0.0))[:TOP]
        blocks.append(students_table("", best, facts.metric))
        blocks += map(Text, undertrained_sentences(facts.students, facts.metric, _words(facts)))
        for chosen in (row.trial for row in finished if row.taken):
            where = Code(str(facts.students_owned.trial_folder(chosen)))
            link = _link("download", facts.student_checkpoints.get(chosen))
            trial = _trial(facts.distillation, chosen)
            blocks.append(Text(("Checkpoint of ", trial, ", the student to export: ", *link, where)))
    search = Link(facts.spec.name, f"/dashboard/studies/{facts.search}")
    return Section("students", ("Students of ", search), blocks)


def _leaderboard(facts: StudyFacts) -> Section:
    rows: list[Row] = [
        [
            f"#{view.number}",
            view.learner,
            _recall(reached),
            Cell(duration(view.cost_seconds)),
            settings({key: value for key, value in view.params.items() if key != "learner"}),
        ]
        for view, reached in facts.ranked[:TOP]
    ]
    table = Table("", ["trial", "learner", facts.metric, "cost", "settings"], rows)
    return Section("trials", "Best trials", [table])


def _learners(facts: StudyFacts) -> Section | None:
    """Return each learner's best trial, and its difference to the best of all, paired by scene."""
    if not facts.ranked:
        return None
    best = facts.ranked[0][1]
    rows: list[tuple[float, Row]] = []
    for learner in LEARNERS:
        tried = sum(view.learner == learner for view in facts.shot.trials)
        mine = [(view, reached) for view, reached in facts.ranked if view.learner == learner]
        if not tried:
            continue
        counts: list[str | Cell] = [learner, Cell(str(tried)), Cell(str(len(mine)))]
        if not mine:
            rows.append((-math.inf, [*counts, "", ""]))
            continue
        view, reached = mine[0]
        rows.append((reached.recall, [*counts, f"#{view.number}: {reached.recall:.4f}", behind(reached, best)]))
    rows.sort(key=lambda row: -row[0])
    columns = ["learner", "tried", "finished", "its best", "less the best of all"]
    table = Table("", columns, [row for _, row in rows])
    return Section("learners", "Learners", [table, Text(_importance(facts))])


def behind(reached: Reached, best: Reached) -> str:
    """Return a trial's recall less that of the best, paired by scene, in words; "" of the best itself."""
    shared = sorted(reached.scenes.keys() & best.scenes.keys())
    if reached.chain == best.chain or not shared:
        return ""
    found = bootstrap(np.array([reached.scenes[name] - best.scenes[name] for name in shared]))
    return spelled(found, "{:+.4f}") + ("" if found.excludes_zero else ", within noise")


def _importance(facts: StudyFacts) -> str:
    return f"What matters: {importance_sentence(facts.importance)}"


def _pruning(facts: StudyFacts) -> Section | None:
    shot = facts.shot
    if not shot.cost_seconds:
        return None
    found = search_figures(shot, facts.spec.finalist_count())
    sentences = [search_sentence(found)]
    if shot.states.get("pruned"):
        sentences.append(control_group_sentence(found))
    return Section("pruning", "What pruning saved", [Text(" ".join(sentences))])


def _test(facts: StudyFacts) -> Section | None:
    students = None if facts.distillation is None else f"/dashboard/studies/{facts.distillation}"
    if facts.evaluation is None:
        if students is None:
            return None
        link = Link(distillation_name(facts.spec.name), students)
        return Section("students", "Students", [Text(("The distillation: ", link))])
    said = _words(facts)
    scored = f"{plural(facts.evaluation.scenes, f'{said.fresh}{said.scene}')}, scored once."
    words = Text(scored if students is None else (f"{scored} Students: ", Link("study", students), "."))
    results = Results(facts.evaluation)
    gained = Text(" ".join(gain_sentences(results)))
    return Section("test", f"Test {said.scene}s", [words, recall_table(results), gained])


def _pruner(spec: StudySpec) -> str:
    section = spec.pruner
    if section.kind == "none":
        return "none"
    return f"asha, eta {section.eta}" if section.rule == "asha" else section.rule


def _protocol(facts: StudyFacts) -> Section:
    spec, protocol = facts.spec, facts.spec.protocol
    taken = None if facts.evaluation is None else facts.evaluation.data.split_by
    split_by = "" if taken is None else f" (split by {taken})"
    lines: list[Words] = [
        (f"data: {spec.data.source}, fingerprint ", Code(facts.record.fingerprint[:16])),
        f"protocol: {protocol.words}{split_by}, seed {protocol.seed}",
        f"search: {spec.search.sampler}, seed {spec.search.seed}; encoder {spec.teacher.encoder}",
        f"pruner: {_pruner(spec)}, rungs at {', '.join(map(str, spec.pruner.rungs))} {spec.pruner.resource}; "
        f"{spec.pruner.keep:.0%} of the trials are in the no-prune control group",
        f"first launched {facts.record.created_at:%Y-%m-%d %H:%M %Z}",
    ]
    return Section("protocol", "Protocol", [Items(lines)])


def _files(facts: StudyFacts) -> Section | None:
    if not facts.ranked:
        return None
    name, (view, reached) = facts.spec.name, facts.ranked[0]
    link = _link("download", facts.checkpoints.get(view.number))
    trial, folder = _trial(facts.search, view.number), Code(str(facts.owned.trial_folder(reached.chain)))
    lines: list[Words] = [("best checkpoint, of ", trial, ": ", *link, folder)]
    if facts.evaluation is not None:
        lines.append((Link("report", artifacts.address(facts.search, artifacts.report(name))),))
        for exported in facts.exports:
            link = _link("download", artifacts.address(facts.search, artifacts.export(name, exported)))
            lines.append(("exported student: ", *link, Code(str(exported))))
    return Section("files", "Files", [Items(lines)])


def _trial(study: int | None, number: int) -> Link:
    """Return a link to a trial's page."""
    return Link(f"#{number}", f"/dashboard/studies/{study}/trials?numbers={number}")


def _link(text: str, address: str | None) -> tuple[str | Link, ...]:
    return () if address is None else (Link(text, address), " ")


def _commands(facts: StudyFacts) -> Section:
    name = shlex.quote(facts.spec.name)
    if facts.evaluation is not None:
        lines = [f"hpo report {name}", f"hpo export {name} --out DIR"]
    elif facts.shot.finished:
        lines = [f"hpo distill {name}", f"hpo resume {name} --trials {facts.shot.spent + 10}"]
    else:
        lines = [f"hpo status {name} --watch", f"hpo stop {name}", f"hpo resume {name}", f"hpo worker {name}"]
    return Section("commands", "Next", [Commands(lines)])


def _recall(reached: Reached) -> Cell:
    if not reached.scenes:
        return Cell(f"{reached.recall:.4f}")
    interval = bootstrap(np.array([reached.scenes[name] for name in sorted(reached.scenes)]))
    return Cell(f"{reached.recall:.4f}", f"[{interval.low:.3f}, {interval.high:.3f}]")
