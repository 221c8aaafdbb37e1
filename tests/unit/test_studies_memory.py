"""The memory formula against what autograd really holds, and the refusal that rests on it."""

import weakref
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import TracebackType

import pytest
import torch
from torch import Tensor

from storage.errors import InputError
from studies.config.hyperparameters import Hyperparameters
from studies.config.search_section import SearchSection
from studies.model.device import free_memory
from studies.training.memory import Shape, fitting, largest, refuse_too_large, trial_bytes
from studies.training.outer_loop import Trainer
from studies.training.prepare import prepare
from studies.training.problem import Problem
from tests.encoders import write_encoder
from tests.synthetic import planted_dataset, tiny_encoder, tiny_spec


class Held:
    """Bytes of the distinct tensors that autograd keeps for a backward pass, now and at most, while it is open."""

    def __init__(self) -> None:
        self.now = self.most = 0
        self._holders: dict[int, int] = {}
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self._pack, lambda kept: kept.tensor)

    def _pack(self, tensor: Tensor) -> "Kept":
        storage = tensor.untyped_storage()
        key, size = storage.data_ptr(), storage.nbytes()
        if not self._holders.get(key):
            self.now += size
            self.most = max(self.most, self.now)
        self._holders[key] = self._holders.get(key, 0) + 1
        kept = Kept(tensor)
        weakref.finalize(kept, self._drop, key, size)
        return kept

    def _drop(self, key: int, size: int) -> None:
        self._holders[key] -= 1
        if not self._holders[key]:
            self.now -= size

    def __enter__(self) -> "Held":
        self._hooks.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._hooks.__exit__(kind, error, trace)


class Kept:
    """A saved tensor, whose end can be told."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


@pytest.fixture(scope="module")
def problem(tmp_path_factory: pytest.TempPathFactory) -> Problem:
    folder: Path = tmp_path_factory.mktemp("memory")
    spec = tiny_spec(tiny_encoder(folder / "tiny"), search={"space": {"trainable_layers": [0, 2]}})
    return prepare(spec, folder / "cache", data=planted_dataset())


def values(name: str, layers: int, steps: int, dropout: float | None = None) -> Hyperparameters:
    inner = {} if name == "protonet" else {"inner_lr": 0.05, "inner_steps": steps}
    return Hyperparameters(name, meta_batch_size=1, trainable_layers=layers, dropout=dropout, **inner)


@pytest.mark.parametrize(("layers", "dropout"), [(0, None), (2, 0.0), (2, 0.1)])
@pytest.mark.parametrize(
    ("name", "steps"),
    [("protonet", 1), ("fomaml", 3), ("reptile", 2), ("anil", 3), ("maml", 1), ("maml", 5), ("metasgd", 3)],
)
def test_what_a_meta_update_holds_stays_below_the_formula_and_not_far_below(
    problem: Problem, name: str, steps: int, layers: int, dropout: float | None
) -> None:
    """A bound that is too low lets a trial be killed after hours; one far too high refuses what would have run."""
    hyperparameters = values(name, layers, steps, dropout)
    episode = max(problem.train, key=lambda e: e.candidates)
    trainer = Trainer(problem.learner(hyperparameters), [episode], steps=1, seed=0)
    with Held() as held:
        trainer.backward(0)
    bound = trial_bytes(hyperparameters, Shape.of(episode, problem.tokens.lengths), problem.encoder, vmap_episodes=1)
    assert held.most <= bound
    assert bound <= 12 * held.most


@pytest.mark.parametrize("architecture", ["mpnet", "deberta-v2", "modernbert"])
def test_the_formula_counts_what_other_architectures_hold(architecture: str, tmp_path: Path) -> None:
    """Relative positions and gates take memory that BERT's layers do not."""
    spec = tiny_spec(write_encoder(tmp_path / "tiny", architecture), search={"space": {"trainable_layers": [0, 2]}})
    problem = prepare(spec, tmp_path / "cache", data=planted_dataset())
    hyperparameters, episode = values("maml", 2, 2, 0.1), max(problem.train, key=lambda e: e.candidates)
    with Held() as held:
        problem.learner(hyperparameters).meta_step([episode])
    bound = trial_bytes(hyperparameters, Shape.of(episode, problem.tokens.lengths), problem.encoder, vmap_episodes=1)
    assert held.most <= bound <= 12 * held.most


def test_memory_of_second_order_grows_by_the_same_amount_with_every_step(problem: Problem) -> None:
    """The formula is linear in the steps; a graph that also kept its outer products would outgrow it."""
    episode = max(problem.train, key=lambda e: e.candidates)
    held = []
    for steps in (1, 2, 3, 4):
        learner = problem.learner(values("maml", 2, steps))
        with Held() as now:
            learner.meta_step([episode])
        held.append(now.most)
    grown = [later - earlier for earlier, later in pairwise(held)]
    assert grown == pytest.approx([grown[0]] * 3, rel=0.02)


def test_a_search_whose_largest_trial_cannot_fit_is_refused_with_what_to_lower(problem: Problem) -> None:
    """Killed by the system at trial 40, a worker says nothing at all."""
    search = SearchSection.model_validate({"space": {"learner": "maml", "trainable_layers": [0, 2]}})

    def needed(values: Hyperparameters) -> int:
        shape = largest(problem.train, problem.tokens.lengths, values.train_candidates)
        return trial_bytes(values, shape, problem.encoder)

    refuse_too_large(search, needed, available=2**40)
    said = r"maml with trainable_layers = 2, inner_steps = 5 needs up to .* GiB of memory .* for one episode, .* lower"
    with pytest.raises(InputError, match=said):
        refuse_too_large(search, needed, available=2**22)


def test_a_trial_holds_as_many_episodes_together_as_fit(problem: Problem, monkeypatch: pytest.MonkeyPatch) -> None:
    """A search that could not begin for its largest trial would leave out all the others, which fit."""
    largest_one = replace(values("maml", 2, 4), meta_batch_size=8)
    whole, one = (problem.trial_bytes(replace(largest_one, meta_batch_size=count)) for count in (8, 1))
    assert one < whole / 2
    assert fitting(largest_one, problem.trial_bytes, whole) is None
    assert fitting(largest_one, problem.trial_bytes, whole - 1) == 4
    assert fitting(largest_one, problem.trial_bytes, one) == 1

    monkeypatch.setattr(problem, "memory", whole // 2)
    batch = [*problem.train, *problem.train][:8]
    learner = problem.learner(largest_one)
    with Held() as now:
        loss = learner.meta_step(batch)
    monkeypatch.setattr(problem, "memory", None)
    together = problem.learner(largest_one)
    with Held() as all_together:
        assert together.meta_step(batch) == pytest.approx(loss, rel=1e-4)
    assert now.most < all_together.most / 1.5


def test_free_memory_is_that_of_a_machine() -> None:
    """Read in the wrong unit, it would refuse everything or nothing."""
    assert 2**26 < free_memory() < 2**45
