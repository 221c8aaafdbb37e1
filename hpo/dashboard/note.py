"""The note on a study's page, in Markdown: what was found, what it cost, what it rests on, and how to go on."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence

import numpy as np

from hpo import artifacts
from hpo.dashboard.facts import ENOUGH_TRIALS, Facts, Reached
from hpo.registry import distillation_name
from hpo.reporting.blocks import plural, settings, spelled
from hpo.reporting.markdown import escape
from hpo.status.console import duration
from storage.home import trial_folder
from studies.evaluation.intervals import bootstrap
from studies.learners.registry import LEARNERS

TOP = 5
# What people write below it stays.
END = "\n\n---\n*Written by hpo; what stands below this line stays.*\n"


def kept(old: str) -> str:
    """The end of a new note: the mark, and what somebody has written below it in the old one."""
    return END + old.partition(END)[2]


def of_search(facts: Facts) -> str:
    """The note of a search."""
    parts = [_standing(facts)]
    if facts.ranked:
        parts += [_leaderboard(facts), _learners(facts), _importance(facts)]
    parts += [_cost(facts), _files(facts), _test(facts), _protocol(facts), _commands(facts)]
    return "\n\n".join(part for part in parts if part)


def of_distillation(facts: Facts) -> str:
    """The note of a distillation."""
    name = facts.spec.name
    finished = [row for row in facts.students if row["state"] == "complete" and row["recall"] is not None]
    parts = [
        f"## Students of [{escape(name)}](/dashboard/studies/{facts.search})",
        f"{plural(len(facts.students), 'trial')}, {len(finished)} finished. {facts.metric} is on validation scenes, "
        "time and size are over those of the teacher's encoder.",
    ]
    if finished:
        rows = [
            [
                f"#{row['trial']}",
                f"{row['recall']:.4f}",
                *("–" if row[key] is None else f"{row[key]:.2f}×" for key in ("latency", "size")),
                "taken" if row["taken"] else "on the front" if row["front"] else "",
                escape(settings(row["params"])),
            ]
            for row in sorted(finished, key=lambda row: -row["recall"])[:TOP]
        ]
        parts.append(_table(["trial", facts.metric, "time", "size", "", "settings"], rows))
        for taken in (row["trial"] for row in finished if row["taken"]):
            where = trial_folder(distillation_name(name), taken)
            link = _link("download", facts.student_checkpoints.get(taken))
            parts.append(f"Checkpoint of {_trial(facts.distillation, taken)}, the one that is taken: {link}`{where}`")
    parts += [
        _test(facts) if facts.evaluation else "",
        _code([f"hpo distill {shlex.quote(name)}", f"hpo export {shlex.quote(name)} --out DIR"]),
    ]
    return "\n\n".join(part for part in parts if part)


def _standing(facts: Facts) -> str:
    shot, protocol = facts.shot, facts.spec.protocol
    counts = ", ".join(f"{count} {state}" for state, count in sorted(shot.states.items())) or "no trial yet"
    scenes = len(facts.finished[-1].scenes) if facts.finished else 0
    where = f" on {plural(scenes, 'validation scene')}" if scenes else ""
    ended = f" The search has ended: {escape(shot.ended_by)}." if shot.finished and shot.ended_by else ""
    return (
        f"## {escape(facts.spec.name)}\n\n{shot.spent} of {shot.budget} trials ({counts}).{ended} {facts.metric} after "
        f"{plural(protocol.shots, 'interaction')}{where}, intervals of 95 % over scenes."
    )


def _leaderboard(facts: Facts) -> str:
    rows = [
        [
            f"#{view.number}",
            view.learner,
            _recall(reached),
            duration(view.cost_seconds),
            escape(settings({key: value for key, value in view.params.items() if key != "learner"})),
        ]
        for view, reached in facts.ranked[:TOP]
    ]
    return "### Best trials\n\n" + _table(["trial", "learner", facts.metric, "cost", "settings"], rows)


def _learners(facts: Facts) -> str:
    """Each learner's best trial, and how far it lies below the best of all, paired by scene."""
    best = facts.ranked[0][1]
    rows = []
    for learner in LEARNERS:
        tried = sum(view.learner == learner for view in facts.shot.trials)
        mine = [(view, reached) for view, reached in facts.ranked if view.learner == learner]
        if not tried:
            continue
        if not mine:
            rows.append((-math.inf, [learner, str(tried), "0", "", ""]))
            continue
        view, reached = mine[0]
        found = [learner, str(tried), str(len(mine)), f"#{view.number}: {reached.recall:.4f}", behind(reached, best)]
        rows.append((reached.recall, found))
    rows.sort(key=lambda row: -row[0])
    columns = ["learner", "tried", "finished", "its best", "less the best of all"]
    return "### Learners\n\n" + _table(columns, [row for _, row in rows])


def behind(reached: Reached, best: Reached) -> str:
    """A trial's recall less that of the best, paired by scene, in words; empty of the best itself."""
    shared = sorted(reached.scenes.keys() & best.scenes.keys())
    if reached.chain == best.chain or not shared:
        return ""
    found = bootstrap(np.array([reached.scenes[name] - best.scenes[name] for name in shared]))
    return spelled(vars(found), "{:+.4f}") + ("" if found.excludes_zero else ", within noise")


def _importance(facts: Facts) -> str:
    if not facts.importance:
        return f"What matters: {len(facts.ranked)} finished trials do not say; {ENOUGH_TRIALS} would."
    shares = ", ".join(f"{escape(name)} {share:.0%}" for name, share in facts.importance.items())
    return (
        f"What matters (PED-ANOVA over {plural(len(facts.ranked), 'finished trial')}): {shares}. Stopped trials are "
        "not in it."
    )


def _cost(facts: Facts) -> str:
    shot = facts.shot
    if not shot.cost_seconds:
        return ""
    said = f"### What pruning saved\n\n{duration(shot.cost_seconds)} of training and evaluation so far"
    if not shot.states.get("pruned"):
        return f"{said}; nothing was pruned."
    share = 1 - shot.cost_seconds / shot.unpruned_seconds
    said += f"; unpruned about {duration(shot.unpruned_seconds)}: {share:.0%} saved."
    count = facts.spec.finalist_count()
    kept, false = shot.control_group, shot.false_prunes(count)
    if not kept:
        return f"{said} No trial was kept against its rank, so what pruning lost was not measured."
    names = f" ({', '.join(f'#{view.number}' for view in false)})" if false else ""
    return (
        f"{said} False prunes: of {plural(len(kept), 'trial')} kept to the end against the rank, {len(false)} ended "
        f"among the best {count}{names}."
    )


def _test(facts: Facts) -> str:
    found = facts.evaluation
    if found is None:
        return (
            ""
            if facts.distillation is None
            else f"Students: [{escape(distillation_name(facts.spec.name))}](/dashboard/studies/{facts.distillation})"
        )
    systems = found["systems"]
    shown = sorted(systems, key=lambda name: -systems[name]["recall"]["mean"])
    rows = [[escape(name), spelled(systems[name]["recall"])] for name in shown]
    link = f" Students: [study](/dashboard/studies/{facts.distillation})." if facts.distillation is not None else ""
    said = f"### Test scenes\n\n{plural(found['scenes'], 'unseen scene')}, scored once.{link}"
    return f"{said}\n\n{_table(['system', facts.metric], rows)}"


def _protocol(facts: Facts) -> str:
    spec, protocol = facts.spec, facts.spec.protocol
    lines = [
        f"data: {spec.data.source}, fingerprint `{facts.record.fingerprint[:16]}`",
        f"protocol: {protocol.shots} shots, window {protocol.window_days:g} days, candidates of the "
        f"{'scene' if protocol.candidates == 'scene' else 'shop'}, split {' / '.join(map(str, protocol.split))} of the "
        f"scenes, timeline {' / '.join(map(str, protocol.timeline))}, seed {protocol.seed}",
        f"search: {spec.search.sampler}, seed {spec.search.seed}; encoder {escape(spec.teacher.encoder)}",
        f"pruner: {spec.pruner.kind}, rungs at {', '.join(map(str, spec.pruner.rungs))} {spec.pruner.resource}, "
        f"eta {spec.pruner.eta}; {spec.pruner.keep:.0%} of the trials are kept against their rank",
        f"first launched {facts.record.created_at:%Y-%m-%d %H:%M %Z}",
    ]
    return "### Protocol\n\n" + _list(lines)


def _files(facts: Facts) -> str:
    if not facts.ranked:
        return ""
    name, (view, reached) = facts.spec.name, facts.ranked[0]
    link = _link("download", facts.checkpoints.get(view.number))
    trial = _trial(facts.search, view.number)
    lines = [f"best checkpoint, of {trial}: {link}`{trial_folder(name, reached.chain)}`"]
    if facts.evaluation is not None:
        lines.append(f"[report]({artifacts.address(facts.search, artifacts.report(name))})")
        for folder in facts.exports:
            link = _link("download", artifacts.address(facts.search, artifacts.export(name, folder)))
            lines.append(f"exported student: {link}`{folder}`")
    return "### Files\n\n" + _list(lines)


def _trial(study: int | None, number: int) -> str:
    """A link to a trial's page."""
    return f"[#{number}](/dashboard/studies/{study}/trials?numbers={number})"


def _link(text: str, address: str | None) -> str:
    return "" if address is None else f"[{text}]({address}) "


def _commands(facts: Facts) -> str:
    name = shlex.quote(facts.spec.name)
    if facts.evaluation is not None:
        wanted = [f"hpo report {name}", f"hpo export {name} --out DIR"]
    elif facts.shot.finished:
        wanted = [f"hpo distill {name}", f"hpo resume {name} --trials {facts.shot.spent + 10}"]
    else:
        wanted = [f"hpo status {name} --watch", f"hpo stop {name}", f"hpo resume {name}", f"hpo worker {name}"]
    return "### Go on\n\n" + _code(wanted)


def _list(lines: Sequence[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _code(lines: Sequence[str]) -> str:
    return "\n".join(["```sh", *lines, "```"])


def _recall(reached: Reached) -> str:
    if not reached.scenes:
        return f"{reached.recall:.4f}"
    interval = bootstrap(np.array([reached.scenes[name] for name in sorted(reached.scenes)]))
    return f"{reached.recall:.4f} [{interval.low:.3f}, {interval.high:.3f}]"


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
