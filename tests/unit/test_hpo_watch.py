"""The snapshot of a study, as tables, logs and scripts get it."""

import io
import json
from collections import Counter
from dataclasses import replace
from datetime import datetime, timedelta

import optuna
import pytest
from optuna.trial import TrialState
from rich.console import Console as RichConsole

from hpo.status import watch
from hpo.status.console import Console
from hpo.status.snapshot import Students, summarise
from hpo.status.watch import SILENT_SECONDS, JsonLines, LiveTable, choose, event, follow, heading, overview, render
from storage.database.control import ControlState
from storage.database.leases import Lease
from studies.config.spec import parse_spec

SPEC = parse_spec(
    {
        "name": "s",
        "data": {"source": "completejourney"},
        "search": {"trials": 4},
        "pruner": {"rungs": [10, 30, 90]},
        "finalists": {"count": 2},
    }
)


def trial(number, state, recalls, cost, **attrs):
    started = datetime(2026, 1, 1)
    return optuna.trial.FrozenTrial(
        number=number,
        trial_id=number,
        state=state,
        value=recalls[-1] if state == TrialState.COMPLETE else None,
        datetime_start=started,
        datetime_complete=started + timedelta(seconds=cost) if state.is_finished() else None,
        params={"learner": "anil"},
        distributions={"learner": optuna.distributions.CategoricalDistribution(["anil"])},
        user_attrs={"cost_seconds": cost, **attrs},
        system_attrs={},
        intermediate_values=dict(zip([10, 30, 90], recalls, strict=False)),
    )


TRIALS = [
    trial(0, TrialState.COMPLETE, [0.1, 0.2, 0.3], 90.0),
    trial(1, TrialState.PRUNED, [0.05], 10.0, reason="recall 0.05 ranks 2 of 2"),
    trial(2, TrialState.RUNNING, [0.2], 10.0),
    trial(3, TrialState.WAITING, [0.4], 10.0),
]


def test_paused_trials_do_not_spend_the_budget_but_failed_ones_do():
    """Counting what waits to go on would end a search early; not counting errors would never end it."""
    shot = summarise(SPEC, TRIALS)
    assert (shot.spent, shot.states["paused"]) == (3, 1)
    assert summarise(SPEC, [*TRIALS, trial(4, TrialState.FAIL, [], 1.0, error="boom")]).spent == 4


def test_a_search_is_finished_only_when_nothing_runs():
    """Distilling while a worker still trains would miss its result."""
    done = [trial(n, TrialState.COMPLETE, [0.1, 0.2, 0.3], 9.0) for n in range(4)]
    assert summarise(SPEC, done).finished
    assert not summarise(SPEC, [*done[:3], TRIALS[2]]).finished


def test_the_best_trial_is_the_best_of_those_that_reached_the_end():
    """An early value that was never confirmed must not be shown as the best."""
    best = summarise(SPEC, TRIALS).best
    assert best is not None
    assert best.number == 0


def test_pruning_is_credited_with_the_rest_of_the_trials_own_cost():
    """The pruned trial spent 10 s on 10 of 90 meta-updates: it would have cost 90 s, so 80 s were saved."""
    shot = summarise(SPEC, TRIALS)
    assert shot.cost_seconds == 120
    assert shot.unpruned_seconds == 200


def printed(shot, width=80, **options):
    console = RichConsole(width=width, record=True, color_system=None, file=io.StringIO())
    console.print(render(shot, **options))
    return console.export_text()


def test_the_table_is_readable_at_80_columns():
    """Wrapped or cut figures are the first thing a user would see of the project."""
    text = printed(summarise(SPEC, TRIALS, {2: Lease(0.53, 1.0)}, ControlState(seconds_left=1800.0)))
    for word in ("complete", "pruned", "running", "anil", "0.3000", "@90", "ranks 2 of 2", "53% trained"):
        assert word in " ".join(text.split())
    assert "best: recall@10 0.3000 (#0, anil)" in text
    assert "budget: 3 of 4 trials, 30 min 00 s to the deadline" in text
    assert "pace: 60 trials/h, 2 min 00 s of work, 40% saved by pruning" in text
    assert max(map(len, text.splitlines())) <= 80


def test_every_budget_is_told_with_what_is_used_of_it():
    """A search that ends for a reason that nobody saw coming looks broken."""
    section = SPEC.search.model_copy(update={"cost_minutes": 10.0, "target_recall": 0.5, "patience": 5})
    text = " ".join(heading(summarise(SPEC.model_copy(update={"search": section}), TRIALS)))
    assert "3 of 4 trials, 2 min 00 s of 10 min 00 s of cost, target 0.5, 1 of 5 without progress" in text


def test_the_time_left_is_that_of_the_first_budget_to_be_spent():
    """An estimate from trials alone is hours off where the cost or the clock ends the search."""
    trials = [trial(0, TrialState.COMPLETE, [0.1, 0.2, 0.3], 90.0), trial(1, TrialState.RUNNING, [], 0.0)]
    halfway = {1: Lease(0.5, 1.0)}
    assert summarise(SPEC, trials, halfway).seconds_left == pytest.approx(90 * (2 + 0.5))
    assert summarise(SPEC, trials, halfway, ControlState(seconds_left=60.0)).seconds_left == 60
    section = SPEC.search.model_copy(update={"cost_minutes": 2.0})
    assert summarise(SPEC.model_copy(update={"search": section}), trials, halfway).seconds_left == 30
    assert summarise(SPEC, [], halfway, ControlState(seconds_left=60.0)).seconds_left is None


def test_the_time_left_counts_what_workers_did_beside_training():
    """Encoding and loading cost no training: a search of minutes would promise seconds."""
    slow = trial(0, TrialState.COMPLETE, [0.1, 0.2, 0.3], 4.0)
    slow.datetime_complete = slow.datetime_start + timedelta(seconds=60)
    fast = trial(1, TrialState.PRUNED, [0.05], 1.0)
    shot = summarise(SPEC, [slow, fast])
    assert shot.seconds_left == pytest.approx(2 * (60 + 1) / 2)
    # Two workers: what the running trial took counts, though it has not ended; one of its rate takes 80 s more.
    running = [trial(2, TrialState.RUNNING, [], 0.0), trial(3, TrialState.RUNNING, [], 0.0)]
    leases = {2: Lease(0.2, 1.0, 20.0), 3: Lease(None, 1.0, 19.0)}
    shot = summarise(SPEC, [slow, fast, *running], leases)
    mean = (60 + 1 + 20 + 19) / 2
    assert shot.trials_per_hour == pytest.approx(3600 * 2 / mean)
    assert shot.seconds_left == pytest.approx(80)
    assert [view.wall_seconds for view in shot.trials] == [60, 1, 20, 19]


def test_the_time_left_counts_pruned_trials_that_will_be_promoted():
    """At the end of a small search most of the time goes to finishing its finalists."""
    pruned = [trial(n, TrialState.PRUNED, [0.1], 10.0) for n in range(4)]
    # Two of them finish, from meta-update 10 of 90 on.
    assert summarise(SPEC, pruned).seconds_left == pytest.approx(2 * 80)


def test_a_worker_that_is_silent_is_told_of():
    """A trial that nobody works on any more looks like one that takes long."""
    text = printed(summarise(SPEC, TRIALS, {2: Lease(0.5, SILENT_SECONDS + 20)}), width=120)
    assert "its worker is silent for 45 s" in text


def test_a_long_search_shows_what_runs_what_ended_last_and_the_best():
    """The best dozen alone hide what was stopped and why; the newest alone hide the best."""
    many = [trial(n, TrialState.PRUNED, [0.1 + n / 1000], 1.0, reason=f"ranks {n}") for n in range(40)]
    many += [trial(40, TrialState.COMPLETE, [0.1, 0.2, 0.3], 1.0), trial(41, TrialState.RUNNING, [], 0.0)]
    many += [trial(n, TrialState.PRUNED, [0.01], 1.0, reason="late") for n in range(42, 48)]
    views = summarise(SPEC, many).trials
    chosen = [view.number for view in choose(views, 12)]
    assert chosen[:5] == [41, 47, 46, 45, 44]
    assert chosen[5:] == [40, 39, 38, 37, 36, 35, 34]
    assert [view.number for view in choose(views, 2)] == [41, 47]
    assert "and 36 more trials" in printed(summarise(SPEC, many))
    assert "more trial" not in printed(summarise(SPEC, many), rows=None)


def test_what_is_told_of_a_search_that_does_not_run():
    """Time left that never passes, or a stop that nobody is told of, keeps people waiting."""
    waiting = [trial(0, TrialState.COMPLETE, [0.1, 0.2, 0.3], 90.0)]
    assert "nothing runs now" in heading(summarise(SPEC, waiting))[0]
    assert "stopped, hpo resume s resumes it" in heading(summarise(SPEC, waiting, None, ControlState(stop="rung")))[0]
    done = summarise(SPEC, [trial(n, TrialState.COMPLETE, [0.1, 0.2, 0.3], 9.0) for n in range(4)])
    assert "ended: 4 trials" in heading(done)[0]
    distilled = replace(done, students=Students(8, {"complete": 2, "running": 1}, 0.4, evaluated=False))
    assert heading(distilled)[-1] == "students: 3 of 8 trials (2 complete, 1 running, 40% trained)"


def test_several_studies_take_a_line_each():
    """Whoever asks for all of a year's studies wants to find one, not to scroll through their trials."""
    done = [trial(n, TrialState.COMPLETE, [0.1, 0.2, 0.3], 9.0) for n in range(4)]
    shots = [summarise(SPEC, TRIALS, {2: Lease(0.5, 1.0)}), summarise(SPEC, done), summarise(SPEC, [])]
    console = RichConsole(width=80, record=True, color_system=None, file=io.StringIO())
    console.print(overview(shots))
    lines = [line.split() for line in console.export_text().splitlines()]
    assert lines[0] == ["study", "trials", "best", "learner", "now"]
    assert lines[1] == ["s", "3/4", "0.3000", "anil", "1", "running;", "about", "1", "min", "10", "s", "left"]
    assert lines[2] == ["s", "4/4", "0.3000", "anil", "ended:", "4", "trials"]
    assert lines[3] == ["s", "0/4", "no", "trial", "yet"]


class Played:
    """An observer that sees one snapshot after the other, the last one again and again."""

    def __init__(self, *shots):
        self.shots, self.again = list(shots), 0

    def read(self):
        """The next one; following that goes on long after the last one never stops."""
        self.again += len(self.shots) == 1
        assert self.again < 50
        return self.shots.pop(0) if len(self.shots) > 1 else self.shots[0]


FINISHED = [*TRIALS[:2], *(trial(n, TrialState.COMPLETE, [0.2, 0.3, 0.4 - n / 100], 9.0) for n in (2, 3))]


def test_a_log_file_hears_of_each_trial_that_ends_and_never_of_a_control_code(capsys, monkeypatch):
    """A redrawn table is noise in a log; the reasons of the pruner are what one looks for in it."""
    monkeypatch.setenv("TERM", "xterm-256color")
    observer = Played(summarise(SPEC, []), summarise(SPEC, TRIALS[:2]), summarise(SPEC, FINISHED))
    with LiveTable(observer, Console()) as table:
        follow(table, seconds=0.0)
    said = capsys.readouterr().err
    assert "\x1b" not in said
    assert "trial 0 (anil) complete; recall@10 0.3000, the best so far" in said
    assert "trial 1 (anil) pruned; recall@10 0.0500; ranks 2 of 2" in said
    assert "trial 2 (anil) complete; recall@10 0.3800, the best so far" in said
    assert "trial 3 (anil) complete; recall@10 0.3700\n" in said
    assert said.splitlines()[-1].startswith("search: 4 of 4 trials (3 complete, 1 pruned); best recall@10 0.3800")


@pytest.mark.parametrize("why", ["ranks 2 of 2", "at rung 1 of 3; a chance of 0.4% to end above 0.0600"])
@pytest.mark.parametrize("metric", ["recall@10", "macro recall"])
def test_a_log_gives_the_value_of_a_pruned_trial_once(metric, why):
    """Of every task and rule: the pruner's reason begins with the value, which the line has already."""
    pruned = trial(1, TrialState.PRUNED, [0.05], 10.0, reason=f"{metric} 0.0500 {why}")
    shot = replace(summarise(SPEC, [TRIALS[0], pruned]), metric=metric)
    assert event(shot.trials[1], shot) == f"trial 1 (anil) pruned; {metric} 0.0500; {why}"


def test_why_workers_wait_is_shown_while_they_do(capsys, monkeypatch):
    """A database without free connections looks like workers that start for ten minutes."""
    monkeypatch.setattr(watch, "SECONDS_BETWEEN_LINES", 0.0)
    with LiveTable(Played(summarise(SPEC, [])), Console()) as table:
        for reasons in ({"the database failed (too many connections)": 2}, {}):
            table.report_waiting(Counter(reasons))
            table.refresh()
    waiting, over = capsys.readouterr().err.splitlines()
    assert waiting.endswith("(workers starting); 2 workers wait: the database failed (too many connections)")
    assert over.endswith("(workers starting)")


def test_a_terminal_that_cannot_redraw_gets_lines(capsys, monkeypatch):
    """An editor's shell or a serial console would show a heap of control codes."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "dumb")
    with LiveTable(Played(summarise(SPEC, TRIALS)), Console()) as table:
        table.refresh()
    said = capsys.readouterr().err
    assert said.startswith("search: 3 of 4 trials")
    assert "\x1b" not in said


def test_trials_of_before_are_not_news(capsys):
    """A resumed search of a thousand trials would begin with a thousand lines."""
    with LiveTable(Played(summarise(SPEC, FINISHED)), Console()) as table:
        follow(table, seconds=0.0)
    assert "trial 0" not in capsys.readouterr().err


def test_lines_of_json_come_when_something_has_changed():
    """A script that follows a search would otherwise drown in the same line, or wait for ever."""
    running = summarise(SPEC, TRIALS, {2: Lease(0.1, 1.0)})
    silent = summarise(SPEC, TRIALS, {2: Lease(0.1, 5.0)}, ControlState(seconds_left=9.0))
    farther = summarise(SPEC, TRIALS, {2: Lease(0.2, 0.0)})
    lines = []
    follow(JsonLines(Played(running, silent, farther, summarise(SPEC, FINISHED)), lines.append), seconds=0.0)
    told = [json.loads(line) for line in lines]
    assert [shot["trials"][2]["progress"] for shot in told] == [0.1, 0.2, None]
    assert [shot["finished"] for shot in told] == [False, False, True]


def test_the_snapshot_is_json_and_has_no_nan():
    """NaN is not JSON: a script that reads the status would break on a diverged trial."""
    diverged = trial(5, TrialState.PRUNED, [float("nan")], 1.0)
    text = json.dumps(summarise(SPEC, [*TRIALS, diverged]).to_json(), allow_nan=False)
    assert json.loads(text)["best"]["number"] == 0
