"""A distillation loss is one row and one function: registered, it is searched, trained with, stored and reported."""

import sys
from pathlib import Path
from types import ModuleType
from typing import get_type_hints

import optuna
import pytest
import torch
from torch import Tensor

from distill.hyperparameters import StudentHyperparameters
from distill.losses.batches import RankingBatch, StateBatch, VectorBatch
from distill.losses.registry import weighted_sum
from distill.objective import Distillation, Teacher, load_student
from distill.trainer import Distiller
from hpo.reporting.blocks import settings
from hpo.search.space import student_start, suggest_student
from storage.errors import InputError
from studies.config.distill_losses import LOSSES, DistillLoss, Setting, loss_settings
from studies.config.hyperparameters import Hyperparameters
from studies.config.search_domains import Numbers, Range
from studies.training.prepare import prepare
from studies.training.problem import Problem
from tests.synthetic import planted_dataset, tiny_encoder, tiny_spec

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_encoder(tmp_path_factory.mktemp("study") / "bert")


@pytest.fixture
def read() -> list[int]:
    """How many texts the toy loss has read, each time."""
    return []


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch, read: list[int]) -> str:
    """Registers a loss with a setting of its own; gives its name."""

    def toy_loss(batch: VectorBatch, toy_power: float) -> Tensor:
        read.append(len(batch.student))
        return (batch.student - batch.teacher).abs().pow(toy_power).mean()

    module = ModuleType("distill.losses.toy")
    module.toy_loss = toy_loss  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    power = Setting("The power.", Numbers(float, 0, False), Range(low=1.0, high=2.0), 1.5)
    row = DistillLoss(
        "a power of the difference",
        "distill.losses.toy:toy_loss",
        "vectors",
        Range(low=2.0, high=4.0),
        3.0,
        settings={"toy_power": power},
    )
    monkeypatch.setitem(LOSSES, "toy", row)
    return "toy"


def test_a_registered_loss_is_in_the_study_file(toy: str, encoder: Path) -> None:
    """A loss that the study file does not take could not be tuned."""
    space = tiny_spec(encoder, distill={"space": {"toy": [0.0, 5.0]}}).distill.space
    assert (space["toy"], space["toy_power"]) == ([0.0, 5.0], Range(low=1.0, high=2.0))
    with pytest.raises(InputError, match="toy must be at least 0"):
        tiny_spec(encoder, distill={"space": {"toy": -1.0}})
    with pytest.raises(InputError, match=r"embedding, hidden, relational.* and toy may all be 0"):
        tiny_spec(encoder, distill={"space": {"toy": 0.0, "embedding": 0.0}})


def test_a_registered_loss_is_suggested_and_reported(toy: str, encoder: Path) -> None:
    """A weight that the search does not suggest stays at its default in every student."""
    section = tiny_spec(encoder).distill
    assert (student_start(section)["toy"], student_start(section)["toy_power"]) == (3.0, 1.5)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(0))
    trial = study.ask()
    values = suggest_student(trial, section)
    assert 2.0 <= values.weights["toy"] <= 4.0
    assert (values.weights["toy"], values.settings["toy_power"]) == (trial.params["toy"], trial.params["toy_power"])
    assert StudentHyperparameters.from_dict(values.to_dict()) == values
    # Reports, the dashboard's note and the terminal all show a student's parameters so.
    assert f"toy = {trial.params['toy']:.4g}" in settings(trial.params)
    off = section.model_copy(update={"space": section.space | {"toy": 0.0}})
    without = optuna.create_study(sampler=optuna.samplers.RandomSampler(0)).ask()
    suggest_student(without, off)
    assert "toy_power" not in without.params


def test_a_registered_loss_trains_a_student_and_is_stored_with_it(
    toy: str, read: list[int], encoder: Path, tmp_path: Path
) -> None:
    """Registered and searched but not trained with, it would make the search compare equal students."""
    spec = tiny_spec(encoder, distill={"embed_steps": 3, "rank_steps": 2})
    problem: Problem = prepare(spec, tmp_path / "cache", data=planted_dataset())
    shared = Distillation(problem, [Teacher(0, 0.3, problem.learner(Hyperparameters()))])
    off = dict.fromkeys(LOSSES, 0.0)
    values = StudentHyperparameters.from_dict(off | {"toy": 2.0, "batch_size": 8, "spelling": 0.0})
    student = shared.start(values)
    Distiller(student, shared.targets, problem.train, spec.distill).text_loss().backward()  # type: ignore[no-untyped-call]
    gradient = student.tower.model.transformer.layer[0].ffn.lin1.weight.grad
    assert gradient is not None
    assert float(gradient.abs().max()) > 0
    read.clear()
    shared.run_trial(values, tmp_path / "trial", lambda reached: None)
    assert read[:3] == [8, 8, 8]
    assert len(read) == spec.distill.steps, "the texts stay beside the rankings"
    assert load_student(problem, tmp_path / "trial").hyperparameters == values


def test_losses_are_summed_batch_after_batch_with_their_weights() -> None:
    """A weight that multiplies another loss would make the search tune the wrong one."""
    ours, theirs = torch.eye(3)[:2], torch.eye(3)[[0, 2]]
    vectors = VectorBatch(ours, theirs)
    states = StateBatch([torch.ones(1, 2, 3)], [torch.zeros(1, 2, 3)], torch.ones(1, 2, dtype=torch.bool))
    off = dict.fromkeys(LOSSES, 0.0)

    def total(**weights: float) -> float | None:
        found = weighted_sum([vectors, states], StudentHyperparameters.from_dict(off | weights))
        return None if found is None else float(found)

    assert total() is None
    assert total(listwise=1.0) is None, "there is no ranking to read"
    assert total(embedding=4.0) == pytest.approx(4 * 0.5)
    assert total(hidden=3.0) == pytest.approx(3 * 1.0)
    assert total(embedding=4.0, hidden=3.0) == pytest.approx(5.0)


@pytest.mark.parametrize("name", LOSSES)
def test_a_row_names_a_function_of_the_batch_that_it_reads(name: str) -> None:
    """Found in the first training step instead, after the search of the teachers."""
    row = LOSSES[name]
    hints = get_type_hints(row.load())
    batches = {batch.reads: batch for batch in (VectorBatch, StateBatch, RankingBatch)}
    assert hints == {"batch": batches[row.reads], "return": Tensor, **dict.fromkeys(row.settings, float)}


@pytest.mark.parametrize("name", [*LOSSES, *loss_settings()])
def test_every_parameter_of_a_loss_is_documented(name: str) -> None:
    """A weight that the documents do not explain is a number to guess."""
    assert f"| `{name}` |" in (DOCS / "study-file.md").read_text(encoding="utf-8")


def test_an_unknown_value_of_a_student_is_refused() -> None:
    """Ignored, a misspelled weight would leave the default in its place."""
    with pytest.raises(ValueError, match="unknown hyperparameter 'embeding'"):
        StudentHyperparameters.from_dict({"embeding": 1.0})
