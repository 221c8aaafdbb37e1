"""A student starts as its teacher, is pulled towards it, and comes back from a checkpoint as it was."""

import copy
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from distill.hyperparameters import StudentHyperparameters
from distill.losses import embedding_loss, listwise_kl
from distill.objective import Distillation, Teacher, evaluate, load_student
from distill.student import TokenTower, init_student
from distill.trainer import Distiller, asking, draw
from storage import checkpoints
from storage.errors import InputError
from studies import encoder as encoders
from studies.device import autocast, fast_bf16, full_precision
from studies.encoder import Encoder, tokenize
from studies.hyperparameters import Hyperparameters, LearnerName
from studies.objective import Problem, prepare
from studies.spec import TeacherSection
from studies.towers import build_tower
from tests.synthetic import planted_dataset, tiny_encoder, tiny_spec

INNER = {"inner_lr": 0.05, "inner_steps": 2}


@pytest.fixture(scope="module")
def problem(tmp_path_factory: pytest.TempPathFactory) -> Problem:
    """A small study: 12 scenes with planted tastes, a random BERT of 4 layers."""
    folder = tmp_path_factory.mktemp("study")
    spec = tiny_spec(tiny_encoder(folder / "bert"), distill={"embed_steps": 6, "rank_steps": 4})
    return prepare(spec, folder / "cache", data=planted_dataset())


def teacher(problem: Problem, learner: LearnerName = "protonet", trainable_layers: int = 0, trial: int = 0) -> Teacher:
    """An untrained teacher: distillation asks nothing more of one."""
    inner = {} if learner == "protonet" else INNER
    values = Hyperparameters(learner=learner, trainable_layers=trainable_layers, **inner)
    return Teacher(trial, 0.3 + trial / 100, problem.learner(values))


def distillation(problem: Problem, *teachers: Teacher) -> Distillation:
    return Distillation(problem, teachers or [teacher(problem)])


def ignore(step: int, recall: float, cost_seconds: float) -> None:
    """A report that nobody reads."""


@pytest.mark.parametrize("init", ["alternate", "first", "last"])
def test_a_student_of_full_depth_is_the_bert(problem: Problem, init: str) -> None:
    """One weight in the wrong place and the student starts as noise, which training hides well enough to ship."""
    encoder = problem.encoder
    student = init_student(encoder, None, encoder.layers, init)  # type: ignore[arg-type]
    items = torch.arange(40)
    with full_precision(), torch.no_grad():
        ours = TokenTower(student, problem.tokens)(items)
        theirs = TokenTower(encoder.model, problem.tokens)(items)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


@pytest.mark.parametrize("layers", [2, 4])
def test_what_the_teacher_trained_replaces_the_encoders_own(problem: Problem, layers: int) -> None:
    """A student that starts from the pretrained layers instead throws away what the search found."""
    encoder = problem.encoder
    problem.cache.build({0, layers})
    tower = build_tower(encoder, problem.cache, layers, "eager")
    with torch.no_grad():
        for parameter in tower.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    bert = copy.deepcopy(encoder.model)
    bert.encoder.layer = nn.ModuleList([*list(bert.encoder.layer)[: 4 - layers], *tower.reader.layer])
    if tower.reader.embeddings is not None:
        bert.embeddings.load_state_dict(tower.reader.embeddings.state_dict(), strict=False)  # no token table
    items = torch.arange(40)
    with full_precision(), torch.no_grad():
        ours = TokenTower(init_student(encoder, tower, 4, "last"), problem.tokens)(items)
        theirs = TokenTower(bert, problem.tokens)(items)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("init", "layers"), [("alternate", [0, 3]), ("first", [0, 1]), ("last", [2, 3])])
def test_init_takes_the_layers_it_names(problem: Problem, init: str, layers: list[int]) -> None:
    """Three names for one initialisation would make the search compare noise."""
    student = init_student(problem.encoder, None, 2, init)  # type: ignore[arg-type]
    for ours, theirs in zip(student.transformer.layer, layers, strict=True):
        bert = problem.encoder.model.encoder.layer[theirs]
        assert torch.equal(ours.attention.q_lin.weight, bert.attention.self.query.weight)
        assert torch.equal(ours.output_layer_norm.bias, bert.output.LayerNorm.bias)


def test_a_student_deeper_than_its_teacher_is_refused(problem: Problem) -> None:
    """There is no layer to start the fifth from."""
    with pytest.raises(InputError, match=r"5 layers .* has 4"):
        init_student(problem.encoder, None, 5, "first")


def test_the_listwise_loss_vanishes_where_rankings_agree() -> None:
    """Scores far apart underflow to probability zero: 0 · log 0 must not become NaN."""
    scores = torch.tensor([[0.0, 500.0, -500.0], [1.0, 1.0, 1.0]], requires_grad=True)
    loss = listwise_kl(scores.detach() + 7, scores, 0.5)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(0, abs=1e-6)
    assert scores.grad is not None
    assert float(scores.grad.abs().max()) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 8.0])
def test_the_listwise_loss_and_its_gradient_are_hintons(temperature: float) -> None:
    """KL the other way round, or without T², trains too, only worse; T² · dKL/ds is T · (q − p) / queries."""
    rng = np.random.default_rng(0)
    teacher_scores, student_scores = rng.normal(size=(2, 5, 7))

    def softmax(scores: np.ndarray) -> np.ndarray:
        exponent = np.exp(scores / temperature)
        return exponent / exponent.sum(1, keepdims=True)

    p, q = softmax(teacher_scores), softmax(student_scores)
    student_tensor = torch.tensor(student_scores, requires_grad=True)
    loss = listwise_kl(torch.tensor(teacher_scores), student_tensor, temperature)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(temperature**2 * (p * np.log(p / q)).sum(1).mean())
    assert student_tensor.grad is not None
    np.testing.assert_allclose(student_tensor.grad.numpy(), temperature * (q - p) / 5, atol=1e-12)


def test_the_embedding_loss_is_one_minus_cosine() -> None:
    """Equal vectors must cost nothing, or the loss never settles."""
    vectors = nn.functional.normalize(torch.randn(6, 8), dim=-1)
    assert float(embedding_loss(vectors, vectors)) == pytest.approx(0, abs=1e-6)
    assert float(embedding_loss(vectors, -vectors)) == pytest.approx(2, abs=1e-6)


def test_embedding_matching_brings_the_student_closer(problem: Problem) -> None:
    """Targets in another order than the items would still train without an error."""
    shared = distillation(problem)
    student = shared._start(StudentHyperparameters(lr=1e-3))

    def error() -> float:
        with full_precision(), torch.no_grad():
            return float(embedding_loss(student.tower(shared.targets.items), shared.targets.vectors))

    before = error()
    long = problem.spec.distill.model_copy(update={"embed_steps": 60})
    Distiller(student, shared.targets, problem.train, long).train_to(60)
    assert error() < 0.5 * before


@pytest.mark.parametrize("learner", ["protonet", "anil", "fomaml"])
def test_ranking_steps_train_encoder_and_head(problem: Problem, learner: LearnerName) -> None:
    """An inner loop that detaches the vectors would leave the encoder untrained, and nobody would notice."""
    shared = distillation(problem, teacher(problem, learner))
    student = shared._start(StudentHyperparameters(embed_weight=0, lr=1e-3))
    before = {name: p.detach().clone() for name, p in student.model.named_parameters()}
    section = problem.spec.distill
    distiller = Distiller(student, shared.targets, problem.train, section)
    distiller.restore({f"model.{name}": value for name, value in before.items()}, section.embed_steps)
    distiller.train_to(section.embed_steps + 1)
    moved = {name for name, p in student.model.named_parameters() if not torch.equal(p, before[name])}
    assert {"tower.model.transformer.layer.0.attention.v_lin.weight", "head.project.weight"} <= moved


def test_teachers_are_averaged_and_adapted(problem: Problem) -> None:
    """Targets of unadapted teachers, or of the best alone, would distil something else than what was found."""
    first, second = teacher(problem), teacher(problem, "anil", trial=1)
    shared = distillation(problem, first, second)
    assert shared.teachers[0] is second
    index, wanted = next(iter(shared.targets.scores.items()))
    episode = problem.train[index]
    scores = []
    for one in (first, second):
        vectors = one.learner.model.tower(episode.items)
        scores.append(one.learner.adapt(episode, vectors).scores(episode.query_history))
    torch.testing.assert_close(wanted, (scores[0] + scores[1]) / 2)


def test_training_never_reads_held_out_texts(problem: Problem, monkeypatch: pytest.MonkeyPatch) -> None:
    """A student that has seen the test scenes' texts is not the student that a new scene will meet."""
    shared = distillation(problem, teacher(problem, "fomaml", trainable_layers=1))
    student = shared._start(StudentHyperparameters())
    read: set[int] = set()
    forward = TokenTower.forward

    def spy(self: TokenTower, items: torch.Tensor) -> torch.Tensor:
        read.update(items.tolist())
        return forward(self, items)

    monkeypatch.setattr(TokenTower, "forward", spy)
    Distiller(student, shared.targets, problem.train, problem.spec.distill).train_to(10)
    held_out = set(problem.data.items_in(problem.split.held_out).tolist())
    assert read
    assert not read & held_out
    assert set(problem.visible_items.tolist()) == set(range(len(problem.data.texts))) - held_out


def test_a_thinned_episode_scores_its_queries_the_same(problem: Problem) -> None:
    """Items left out by mistake would change histories silently: counts are matrices without names."""
    one = teacher(problem, "fomaml")
    episode = max(problem.train, key=lambda episode: len(episode.items) - episode.candidates)
    queries = torch.tensor([len(episode.relevant) - 1, 0])
    thin = asking(episode, queries)
    assert len(thin.items) < len(episode.items)

    def scores(of: object) -> torch.Tensor:
        vectors = one.learner.model.tower(of.items)  # type: ignore[attr-defined]
        return one.learner.adapt(of, vectors).scores(of.query_history)  # type: ignore[attr-defined, arg-type]

    torch.testing.assert_close(scores(thin), scores(episode)[queries])
    assert torch.equal(thin.relevant, episode.relevant[queries])


@pytest.mark.parametrize("stop", [4, 6, 8])
def test_a_restored_distiller_goes_on_bit_for_bit(problem: Problem, tmp_path: Path, stop: int) -> None:
    """A resumed trial whose figures drift could not be compared with the others; both phases are cut into here."""
    shared = distillation(problem, teacher(problem, "anil"))
    values, section = StudentHyperparameters(), problem.spec.distill

    def fresh() -> Distiller:
        return Distiller(shared._start(values), shared.targets, problem.train, section)

    whole, part = fresh(), fresh()
    whole.train_to(10)
    part.train_to(stop)
    checkpoints.save(tmp_path / "c", part.step, part.state(), {"step": part.step})
    tensors, metadata = checkpoints.last(tmp_path / "c")
    resumed = fresh()
    resumed.restore(tensors, metadata["step"])
    resumed.train_to(10)
    wanted = whole.state()
    assert resumed.state().keys() == wanted.keys()
    for name, value in resumed.state().items():
        assert torch.equal(value, wanted[name]), name


def test_a_trial_reports_resumes_and_loads(problem: Problem, tmp_path: Path) -> None:
    """An interrupted trial must end where an uninterrupted one does, and the export must load that very student."""
    shared = distillation(problem)
    reports: list[tuple[int, float, float]] = []
    recall = shared.run_trial(StudentHyperparameters(), tmp_path / "whole", lambda *report: reports.append(report))
    assert [step for step, _, _ in reports] == [6, 8, 10]
    assert reports[-1][1] == recall
    assert [cost for _, _, cost in reports] == sorted(cost for _, _, cost in reports)

    class Stopped(Exception):
        """What Ctrl-C looks like from inside."""

    def stop(step: int, recall: float, cost_seconds: float) -> None:
        if step == 8:
            raise Stopped

    with pytest.raises(Stopped):
        shared.run_trial(StudentHyperparameters(), tmp_path / "cut", stop)
    later: list[int] = []
    done: list[int] = []
    again = shared.run_trial(
        StudentHyperparameters(), tmp_path / "cut", lambda step, *_: later.append(step), progress=done.append
    )
    assert (again, later, done) == (recall, [10], [9, 10])
    student = load_student(problem, tmp_path / "cut")
    tensors, _ = checkpoints.last(tmp_path / "whole")
    for name, weight in student.model.named_parameters():
        assert torch.equal(weight, tensors[f"model.{name}"]), name
    # Training and serving differ in their attention kernels, so in the last bits.
    assert evaluate(student, problem, problem.validation).mean() == pytest.approx(recall, abs=0.02)


def test_a_trial_that_diverges_says_nan(problem: Problem, tmp_path: Path) -> None:
    """A crash would take the worker down; a finite figure would rank the trial."""
    reports: list[float] = []
    values = StudentHyperparameters(lr=1e30)
    recall = distillation(problem).run_trial(values, tmp_path / "t", lambda _, recall, __: reports.append(recall))
    assert math.isnan(recall)
    assert math.isnan(reports[-1])


def test_loading_refuses_another_studys_student(problem: Problem, tmp_path: Path) -> None:
    """Layers that happen to be named alike would load into a student of another depth without a word."""
    distillation(problem).run_trial(StudentHyperparameters(), tmp_path / "t", ignore)
    spec = problem.spec.model_copy(update={"distill": problem.spec.distill.model_copy(update={"layers": 1})})
    other = copy.copy(problem)
    other.spec = spec
    with pytest.raises(InputError, match="distils"):
        load_student(other, tmp_path / "t")
    with pytest.raises(InputError, match="holds no checkpoint"):
        load_student(problem, tmp_path / "nothing")
    manifest = tmp_path / "t" / "step-000010" / "checkpoint.json"
    manifest.write_bytes(b"")
    with pytest.raises(InputError, match="an earlier checkpoint must not stand in for it"):
        load_student(problem, tmp_path / "t")


def test_no_teachers_is_an_input_error(problem: Problem) -> None:
    """A study without a finished trial has nothing to distil."""
    with pytest.raises(InputError, match="no teachers"):
        Distillation(problem, [])


def test_full_precision_reaches_through_autocast() -> None:
    """Published figures in bf16 would not be what the fp32 export gives."""
    with full_precision(), autocast():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32
    with autocast():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == (torch.bfloat16 if fast_bf16() else torch.float32)


def test_steps_draw_the_same_episodes_for_every_trial() -> None:
    """Targets are computed for the drawn episodes alone: another draw would find none."""
    assert [draw(0, step, 50)[0] for step in range(5)] == [draw(0, step, 50)[0] for step in range(5)]
    assert len({draw(0, step, 50)[0] for step in range(20)}) > 5


def test_the_bundled_encoder_maps_exactly() -> None:
    """The random BERT has no trained biases: the real one shows a swapped or forgotten weight."""
    encoder: Encoder = encoders.load(TeacherSection())
    tokens = tokenize(encoder.tokenizer, ["whole milk", "dark chocolate with hazelnuts, 100 g"], 48)
    with full_precision(), torch.no_grad():
        ours = TokenTower(init_student(encoder, None, 6, "alternate"), tokens)(torch.arange(2))
        theirs = TokenTower(encoder.model, tokens)(torch.arange(2))
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)
