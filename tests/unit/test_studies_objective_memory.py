"""Memory that runs out while a trial trains: fewer episodes at a time, the same result, and plain words at the end."""

import logging
import resource
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from storage.errors import OutOfMemory
from studies.config.hyperparameters import Hyperparameters
from studies.learners.base import Learner
from studies.learners.tasks.scene_tasks import SceneTasks
from studies.model.device import full_precision
from studies.training.objective import load_teacher, run_trial
from studies.training.out_of_memory import recognised
from studies.training.prepare import prepare
from studies.training.problem import Problem
from studies.training.rungs import RungReport
from tests.synthetic import planted_dataset, tiny_encoder, tiny_spec

ANIL = Hyperparameters("anil", 5e-3, meta_batch_size=4, inner_lr=0.05, inner_steps=2)
# What each episode of `limited` takes, and what there is beside it: enough for one, not for two.
EPISODE = 2**30
ROOM = 3 * 2**29


@pytest.fixture(scope="module")
def problem(tmp_path_factory: pytest.TempPathFactory) -> Problem:
    folder: Path = tmp_path_factory.mktemp("memory")
    spec = tiny_spec(tiny_encoder(folder / "tiny"), search={"space": {"trainable_layers": [0, 1]}})
    return prepare(spec, folder / "cache", data=planted_dataset())


def limit(monkeypatch: pytest.MonkeyPatch, most: int, after: int = 0) -> list[int]:
    """Lets memory run out where more than `most` episodes are held together, as CUDA says it, after some meta-batches.

    Returns how many were held together, each time.
    """
    held: list[int] = []
    real = SceneTasks.meta_batch

    def tasks(self: SceneTasks, model: Any, episodes: Sequence[Any], adapts: Any) -> Any:
        held.append(len(episodes))
        if len(episodes) > most and len(held) > after:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.\nMore of it.")
        return real(self, model, episodes, adapts)

    monkeypatch.setattr(SceneTasks, "meta_batch", tasks)
    return held


def heard(
    problem: Problem, folder: Path, values: Hyperparameters = ANIL, at_once: int | None = None
) -> tuple[list[RungReport], float]:
    reports: list[RungReport] = []
    search = problem.spec.search.model_copy(update={"episodes_at_once": at_once})
    known, problem.spec = problem.spec, problem.spec.model_copy(update={"search": search})
    try:
        return reports, run_trial(problem, values, folder, reports.append)
    finally:
        problem.spec = known


def untimed(reports: list[RungReport]) -> list[RungReport]:
    return [replace(report, cost_seconds=0.0, seconds_per_update=0.0, micro_batch_size=None) for report in reports]


def distance(problem: Problem, one: Path, other: Path) -> float:
    """The largest difference between the weights that two trials left.

    Without those that hold a number which shifts all scores alike, such as the appeal's last bias: its gradient is a
    rounding error, of which Adam makes whole steps.
    """
    weights = [load_teacher(problem, folder).model.state_dict() for folder in (one, other)]
    compared = weights[0].keys() - {"head.feature_weights", "head.appeal.2.bias"}
    return max(float((weights[0][name] - weights[1][name]).abs().max()) for name in compared)


def test_fewer_episodes_at_a_time_end_where_all_together_do(
    problem: Problem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Failed for want of memory, a good configuration would be ranked last; so would one that is trained otherwise."""
    whole, recall = heard(problem, tmp_path / "whole")
    held = limit(monkeypatch, most=1)
    reports, reached = heard(problem, tmp_path / "fewer")
    assert held[:3] == [4, 2, 1]
    assert {report.micro_batch_size for report in whole} == {None}
    assert {report.micro_batch_size for report in reports} == {1}
    assert [record.levelno for record in caplog.records if "out of memory" in record.message] == [logging.WARNING] * 2
    assert "ran out of memory (CUDA out of memory. Tried to allocate 20.00 MiB.) with 4 episodes" in caplog.text
    assert [report.step for report in reports] == [2, 4, 8]
    assert reached == pytest.approx(recall, abs=1e-3)
    assert distance(problem, tmp_path / "whole", tmp_path / "fewer") < 1e-4


def test_a_trial_goes_on_from_its_last_rung_and_tells_none_twice(
    problem: Problem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Judged again at a rung on which others have come in since, a trial would be stopped that had passed."""
    whole, _ = heard(problem, tmp_path / "whole")
    held = limit(monkeypatch, most=2, after=5)  # memory suffices for the first rung of 2 and for 3 updates more
    reports, _ = heard(problem, tmp_path / "fewer")
    assert [(report.rung, report.micro_batch_size) for report in reports] == [(0, None), (1, None), (2, 2)]
    assert held == [4] * 6 + [2] * 2 * 4
    assert untimed(reports[:2]) == untimed(whole[:2])


def test_a_resumed_trial_keeps_to_fewer_episodes(
    problem: Problem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would run out of memory again at every resume, and train part of a rung for nothing."""

    class Stop(Exception):
        pass

    def stop(report: RungReport) -> None:
        raise Stop

    held = limit(monkeypatch, most=2)
    with pytest.raises(Stop):
        run_trial(problem, ANIL, tmp_path / "trial", stop)
    held.clear()
    reports, _ = heard(problem, tmp_path / "trial")
    assert {report.micro_batch_size for report in reports} == {2}
    assert set(held) == {2}


def test_the_study_files_number_is_the_start(problem: Problem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of a meta-batch is more than the two that were side by side: memory would run out the same way."""
    held = limit(monkeypatch, most=1)
    heard(problem, tmp_path / "trial", at_once=2)
    assert held[:2] == [4, 1]


def test_memory_for_less_than_one_episode_is_told_with_what_to_lower(
    problem: Problem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An allocator's words leave the user with nothing to turn."""
    limit(monkeypatch, most=0)
    said = r"ran out of memory \(CUDA .*MiB\.\) even with one episode at a time: lower protocol.train_queries.*workers"
    with pytest.raises(OutOfMemory, match=said):
        heard(problem, tmp_path / "trial")


def test_an_evaluation_without_memory_is_told_apart(
    problem: Problem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fewer episodes in training do not help it: the trial would be trained four times for nothing."""

    def evaluate(*_: object) -> None:
        raise MemoryError

    held = limit(monkeypatch, most=9)
    monkeypatch.setattr(problem, "evaluate", evaluate)
    with pytest.raises(OutOfMemory, match=r"evaluating ran out of memory: lower protocol\.queries.*\(MemoryError\)"):
        heard(problem, tmp_path / "trial")
    assert held == [4, 4]


@contextmanager
def limited() -> Iterator[None]:
    """A process with `ROOM` left: what it asks for beyond fails as on a machine without memory."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + ROOM, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def test_what_the_allocator_itself_says_is_understood(
    problem: Problem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its words are no exception's type: reworded by a new version of torch, they would fail the trial."""
    real = SceneTasks.meta_batch
    sizes: list[int] = []

    def tasks(self: SceneTasks, model: Any, episodes: Sequence[Any], adapts: Any) -> Any:
        sizes.append(len(episodes))
        torch.empty(len(episodes) * EPISODE, dtype=torch.uint8)
        return real(self, model, episodes, adapts)

    monkeypatch.setattr(SceneTasks, "meta_batch", tasks)
    with limited():
        reports, _ = heard(problem, tmp_path / "trial")
    assert sizes[:3] == [4, 2, 1]
    assert len(reports) == 3
    assert {report.micro_batch_size for report in reports} == {1}


@pytest.mark.parametrize(
    ("error", "known"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (RuntimeError("[enforce fail] . DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes."), True),
        (RuntimeError("CUDA error: out of memory\nCompile with TORCH_USE_CUDA_DSA"), True),
        (RuntimeError("The size of tensor a (3) must match the size of tensor b (4)"), False),
        (NotImplementedError(), False),
    ],
)
def test_only_want_of_memory_is_taken_for_it(error: Exception, known: bool) -> None:
    """A programming error, tried again with half the episodes, would be hidden or told as something else."""
    with pytest.raises(OutOfMemory if known else type(error)), recognised("it ran out"):
        raise error


@pytest.mark.parametrize("name", ["protonet", "maml", "reptile"])
@pytest.mark.parametrize("layers", [0, 1])
def test_gradients_are_the_same_however_many_episodes_are_held_together(
    problem: Problem, name: Any, layers: int
) -> None:
    """A weight counted per micro-batch instead of per meta-batch would double the rate where memory is scarce."""
    inner = {} if name == "protonet" else {"inner_lr": 0.05, "inner_steps": 2}
    values = Hyperparameters(name, meta_batch_size=4, trainable_layers=layers, **inner)

    def gradients(micro_batch_size: int | None) -> tuple[float, dict[str, torch.Tensor]]:
        learner: Learner = problem.learner(values, micro_batch_size)
        with full_precision():  # bf16 would round each part differently
            loss = learner.meta_step(problem.train[:4])
        return loss, {n: p.grad for n, p in learner.model.named_parameters() if p.grad is not None}

    loss, whole = gradients(None)
    for micro_batch_size in (1, 3, 4):
        again, parts = gradients(micro_batch_size)
        assert again == pytest.approx(loss)
        torch.testing.assert_close(parts, whole, rtol=1e-3, atol=1e-6)


def test_memory_that_runs_out_all_the_same_halves_what_was_planned(
    problem: Problem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of the meta-batch would be as many as had just been too many."""
    half = problem.trial_bytes(replace(ANIL, meta_batch_size=2))
    assert half < problem.trial_bytes(ANIL)
    monkeypatch.setattr(problem, "memory", half)
    held = limit(monkeypatch, most=1)
    reports, _ = heard(problem, tmp_path)
    assert held[:2] == [2, 1]
    assert set(held[1:]) == {1}
    assert reports[-1].micro_batch_size == 1
