"""A student starts as its teacher, is pulled towards it, and comes back from a checkpoint as it was."""

import copy
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from distill.hyperparameters import StudentHyperparameters
from distill.initialisation import init_encoder
from distill.losses import embedding_loss
from distill.objective import Distillation, Teacher, evaluate, load_student
from distill.student import TokenTower
from distill.teacher_states import TeacherStates, needed
from distill.trainer import Distiller, asking, draw
from storage.errors import InputError
from storage.files import checkpoints
from studies.config.hyperparameters import Hyperparameters
from studies.config.spec import TeacherSection
from studies.model import encoder as encoders
from studies.model.device import autocast, fast_bf16, full_precision
from studies.model.encoder import Encoder, Ragged, tokenize
from studies.model.towers import build_tower
from studies.training.problem import Problem, prepare
from tests.heard import Heard
from tests.synthetic import planted_dataset, tiny_encoder, tiny_spec

INNER = {"inner_lr": 0.05, "inner_steps": 2}


@pytest.fixture(scope="module")
def problem(tmp_path_factory: pytest.TempPathFactory) -> Problem:
    """A small study: 12 scenes with planted tastes, a random BERT of 4 layers."""
    folder = tmp_path_factory.mktemp("study")
    spec = tiny_spec(tiny_encoder(folder / "bert"), distill={"embed_steps": 6, "rank_steps": 4})
    return prepare(spec, folder / "cache", data=planted_dataset())


def teacher(problem: Problem, learner: str = "protonet", trainable_layers: int = 0, trial: int = 0) -> Teacher:
    """An untrained teacher: distillation asks nothing more of one."""
    inner = {} if learner == "protonet" else INNER
    values = Hyperparameters(learner=learner, trainable_layers=trainable_layers, **inner)
    return Teacher(trial, 0.3 + trial / 100, problem.learner(values))


def distillation(problem: Problem, *teachers: Teacher) -> Distillation:
    return Distillation(problem, teachers or [teacher(problem)])


def encoder_of(encoder: Encoder, tower: nn.Module | None, layers: int, init: str, width: int = 0) -> Any:
    """The encoder of a new student, whose vocabulary is the teacher's."""
    values = StudentHyperparameters(layers=layers, width=width, init=init, vocabulary="full")  # type: ignore[arg-type]
    return init_encoder(encoder, tower, None, values)[0]


def ignore(step: int, recall: float, cost_seconds: float) -> None:
    """A report that nobody reads."""


@pytest.mark.parametrize("init", ["alternate", "first", "last"])
def test_a_student_of_full_depth_is_the_bert(problem: Problem, init: str) -> None:
    """One weight in the wrong place and the student starts as noise, which training hides well enough to ship."""
    encoder = problem.encoder
    student = encoder_of(encoder, None, encoder.layers, init)
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
    bert.encoder.layer = nn.ModuleList([*list(bert.encoder.layer)[: 4 - layers], *tower.top_layers.layer])
    if tower.top_layers.embeddings is not None:
        bert.embeddings.load_state_dict(tower.top_layers.embeddings.state_dict(), strict=False)  # no token table
    items = torch.arange(40)
    with full_precision(), torch.no_grad():
        ours = TokenTower(encoder_of(encoder, tower, 4, "last"), problem.tokens)(items)
        theirs = TokenTower(bert, problem.tokens)(items)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("init", "layers"), [("alternate", [0, 3]), ("first", [0, 1]), ("last", [2, 3])])
def test_init_takes_the_layers_it_names(problem: Problem, init: str, layers: list[int]) -> None:
    """Three names for one initialisation would make the search compare noise."""
    student = encoder_of(problem.encoder, None, 2, init)
    for ours, theirs in zip(student.transformer.layer, layers, strict=True):
        bert = problem.encoder.model.encoder.layer[theirs]
        assert torch.equal(ours.attention.q_lin.weight, bert.attention.self.query.weight)
        assert torch.equal(ours.output_layer_norm.bias, bert.output.LayerNorm.bias)


def test_a_student_deeper_than_its_teacher_is_refused(problem: Problem) -> None:
    """There is no layer to start the fifth from."""
    with pytest.raises(InputError, match=r"5 layers .* has 4"):
        encoder_of(problem.encoder, None, 5, "first")


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
def test_ranking_steps_train_encoder_and_head(problem: Problem, learner: str) -> None:
    """An inner loop that detaches the vectors would leave the encoder untrained, and nobody would notice."""
    shared = distillation(problem, teacher(problem, learner))
    student = shared._start(StudentHyperparameters(embedding=0, lr=1e-3))
    before = {name: p.detach().clone() for name, p in student.model.named_parameters()}
    section = problem.spec.distill
    distiller = Distiller(student, shared.targets, problem.train, section)
    distiller.restore({f"model.{name}": value for name, value in before.items()}, section.embed_steps)
    distiller.train_to(section.embed_steps + 1)
    moved = {name for name, p in student.model.named_parameters() if not torch.equal(p, before[name])}
    assert {"tower.model.transformer.layer.0.attention.v_lin.weight", "head.project.weight"} <= moved


def test_teachers_are_adapted_and_weighted_by_their_recall(problem: Problem) -> None:
    """Targets of unadapted teachers, or of the best alone, would distil something else than what was found."""
    first, second = teacher(problem), teacher(problem, "anil", trial=1)
    shared = distillation(problem, first, second)
    assert shared.teachers[0] is second
    index = next(iter(shared.targets.scores))
    episode = problem.train[index]
    scores = []
    for one in (first, second):
        vectors = one.learner.model.tower(episode.items)
        scores.append(one.learner.adapt(episode, vectors).scores(episode.query_history))
    torch.testing.assert_close(shared.targets.ranking(index, 2), (0.30 * scores[0] + 0.31 * scores[1]) / 0.61)
    torch.testing.assert_close(shared.targets.ranking(index, 1), scores[1])


def test_teachers_are_asked_once(problem: Problem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every resumed distillation would pay for its teachers again; and other teachers must not get these answers."""
    heard = Heard()
    monkeypatch.setattr(problem, "reporter", heard)

    def ask(one: Teacher) -> Distillation:
        return Distillation(problem, [one], tmp_path)

    first, again = ask(teacher(problem)), ask(teacher(problem))
    count = len(first.targets.scores)
    assert heard.reports["asking the teachers"] == [(done, count) for done in range(1, count + 1)]
    for index, scores in first.targets.scores.items():
        assert torch.equal(again.targets.scores[index], scores)
    assert torch.equal(again.targets.vectors, first.targets.vectors)
    ask(teacher(problem, "anil"))
    assert len(heard.reports["asking the teachers"]) == 2 * count
    next(tmp_path.iterdir()).write_bytes(b"half a file")
    ask(teacher(problem))


def test_training_never_reads_held_out_texts(problem: Problem, monkeypatch: pytest.MonkeyPatch) -> None:
    """A student that has seen the test scenes' texts is not the student that a new scene will meet."""
    shared = distillation(problem, teacher(problem, "fomaml", trainable_layers=1))
    student = shared._start(StudentHyperparameters(hidden=1.0))
    read: set[int] = set()
    whole = {id(student.tower.tokens), id(problem.tokens)}
    chosen, padded = Ragged.rows, Ragged.padded

    def rows(self: Ragged, items: torch.Tensor) -> Ragged:
        read.update(items.tolist())
        return chosen(self, items)

    def pad(self: Ragged, items: torch.Tensor, on: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        if id(self) in whole:
            read.update(items.tolist())
        return padded(self, items, on)

    monkeypatch.setattr(Ragged, "rows", rows)
    monkeypatch.setattr(Ragged, "padded", pad)
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
    thin, kept = asking(episode, queries, np.random.default_rng(0))
    assert len(thin.items) < len(episode.items)
    assert torch.equal(thin.items[: thin.candidates], episode.items[kept])

    def scores(of: object) -> torch.Tensor:
        vectors = one.learner.model.tower(of.items)  # type: ignore[attr-defined]
        return one.learner.adapt(of, vectors).scores(of.query_history)  # type: ignore[attr-defined, arg-type]

    assert thin.candidates == episode.candidates  # so few that all remain
    torch.testing.assert_close(scores(thin), scores(episode)[queries])
    assert torch.equal(thin.relevant, episode.relevant[queries])


def test_a_narrower_student_starts_close_to_its_teacher() -> None:
    """Rows of the wrong components, heads or neurons start as noise, which training hides well enough to ship."""
    encoder: Encoder = encoders.load(TeacherSection())
    nouns, kinds = ("milk", "shampoo", "dog food", "batteries", "apples"), ("organic", "family size", "cheap")
    tokens = tokenize(encoder.tokenizer, [f"{kind} {noun}" for noun in nouns for kind in kinds], 48)
    values = StudentHyperparameters(layers=6, width=352, vocabulary="full")
    model, projection = init_encoder(encoder, None, None, values)
    assert projection is not None
    items = torch.arange(len(tokens))
    with full_precision(), torch.no_grad():
        ours = TokenTower(model, tokens, projection)(items)
        theirs = TokenTower(encoder.model, tokens)(items)
    assert float((ours * theirs).sum(1).mean()) > 0.7


def test_a_narrow_students_heads_and_neurons_follow_its_width(problem: Problem) -> None:
    """Attention heads cut in the middle are no heads."""
    student = encoder_of(problem.encoder, None, 2, "first", width=16)
    assert (student.config.n_heads, student.config.hidden_dim) == (2, 32)
    with pytest.raises(InputError, match="40 wide cannot start"):
        encoder_of(problem.encoder, None, 2, "first", width=40)


@pytest.mark.parametrize("trained", [0, 1, 2])
def test_hidden_states_are_the_teachers_own_layer_by_layer(problem: Problem, trained: int) -> None:
    """A layer off by one trains the student towards the wrong depth, and nothing else would show it."""
    encoder, items = problem.encoder, torch.arange(6)
    assert needed(4, {2, 3, 4}, 0) == {1, 2, 3}
    problem.cache.build(needed(4, {4}, trained))
    states = TeacherStates(problem.cache, 4, 4, trained)
    assert states.layers == [layer for layer in (1, 2, 3) if layer <= 4 - trained]
    full = encoder_of(encoder, None, 4, "first")
    with full_precision(), torch.no_grad():
        read = TokenTower(full, problem.tokens).read(items, states=True)
    for layer, theirs in zip(states.layers, states.of(items), strict=True):
        torch.testing.assert_close(read.states[layer][read.mask], theirs[read.mask], atol=0.02, rtol=0.02)  # bf16


def test_a_teacher_that_trained_every_layer_leaves_the_hidden_loss_out(problem: Problem, tmp_path: Path) -> None:
    """There are no cached states to compare: the trial must train without them, not fail."""
    problem.cache.build({3})
    shared = distillation(problem, teacher(problem, "fomaml", trainable_layers=3))
    assert shared._states(StudentHyperparameters(hidden=1.0)) is None
    assert shared.run_trial(StudentHyperparameters(hidden=1.0), tmp_path / "t", ignore) >= 0


@pytest.mark.parametrize("loss", ["embedding", "relational", "hidden"])
def test_each_loss_on_texts_falls_as_it_is_trained(problem: Problem, loss: str) -> None:
    """A weight that reaches no loss makes the search compare equal students."""
    shared = distillation(problem)
    off = dict.fromkeys(("embedding", "relational", "hidden"), 0.0)
    student = shared._start(StudentHyperparameters(**{**off, loss: 10.0}, lr=1e-3, spelling=0.0))
    problem.cache.build(needed(4, {2}, 0))
    states = TeacherStates(problem.cache, 4, 2, 0) if loss == "hidden" else None
    section = problem.spec.distill.model_copy(update={"embed_steps": 60})
    distiller = Distiller(student, shared.targets, problem.train, section, states)
    first = float(distiller._read().detach())
    distiller.train_to(50)
    assert float(distiller._read().detach()) < first


@pytest.mark.parametrize("loss", ["listwise", "margin", "hard"])
def test_each_loss_on_rankings_reaches_the_encoder(problem: Problem, loss: str) -> None:
    """As above, of episodes."""
    shared = distillation(problem)
    off = dict.fromkeys(("embedding", "relational", "listwise", "margin", "hard"), 0.0)
    student = shared._start(StudentHyperparameters(**{**off, loss: 1.0}))
    section = problem.spec.distill
    distiller = Distiller(student, shared.targets, problem.train, section)
    distiller.restore(
        {f"model.{name}": p.detach() for name, p in student.model.named_parameters()}, section.embed_steps
    )
    distiller._rank().backward()  # type: ignore[no-untyped-call]
    gradient = student.tower.model.transformer.layer[0].ffn.lin1.weight.grad
    assert gradient is not None
    assert float(gradient.abs().max()) > 0


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
    assert [step for step, _, _ in reports] == [2, 6, 10]
    assert reports[-1][1] == recall
    assert [cost for _, _, cost in reports] == sorted(cost for _, _, cost in reports)

    class Stopped(Exception):
        """What Ctrl-C looks like from inside."""

    def stop(step: int, recall: float, cost_seconds: float) -> None:
        if step == 6:
            raise Stopped

    with pytest.raises(Stopped):
        shared.run_trial(StudentHyperparameters(), tmp_path / "cut", stop)
    later: list[int] = []
    done: list[int] = []
    again = shared.run_trial(
        StudentHyperparameters(), tmp_path / "cut", lambda step, *_: later.append(step), progress=done.append
    )
    assert (again, later, done) == (recall, [6, 10], [7, 8, 9, 10])
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
    """Weights that happen to have the same shapes would load into a student of another encoder without a word."""
    distillation(problem).run_trial(StudentHyperparameters(), tmp_path / "t", ignore)
    other = copy.copy(problem)
    other.encoder = replace(problem.encoder, identity="another")
    with pytest.raises(InputError, match="of another encoder"):
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
        ours = TokenTower(encoder_of(encoder, None, 6, "alternate"), tokens)(torch.arange(2))
        theirs = TokenTower(encoder.model, tokens)(torch.arange(2))
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)
