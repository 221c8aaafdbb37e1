"""A student starts as its teacher, is trained to match it, and resumes from a checkpoint bit for bit."""

import copy
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from distill.episode_draws import subsample
from distill.hyperparameters import StudentHyperparameters
from distill.initialisation import init_encoder, student_config
from distill.losses.batches import VectorBatch
from distill.losses.embedding import embedding_loss
from distill.objective import Distillation, Teacher, evaluate, load_student
from distill.student import TokenTower
from distill.teacher_states import TeacherStates, needed
from distill.trainer import Distiller, draw_episode
from storage.errors import InputError
from storage.files import checkpoints
from studies.config.definition import TeacherSection
from studies.config.distill_losses import LOSSES
from studies.config.hyperparameters import Hyperparameters
from studies.model import encoder as encoders
from studies.model.device import autocast, fast_bf16, full_precision
from studies.model.encoder import Encoder, Ragged, tokenize
from studies.model.towers import build_tower
from studies.training.prepare import prepare
from studies.training.problem import Problem
from studies.training.rungs import RungReport
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
    """An untrained teacher: distillation needs nothing more of one."""
    inner = {} if learner == "protonet" else INNER
    values = Hyperparameters(learner=learner, trainable_layers=trainable_layers, **inner)
    return Teacher(trial, 0.3 + trial / 100, problem.learner(values))


def distillation(problem: Problem, *teachers: Teacher) -> Distillation:
    return Distillation(problem, teachers or [teacher(problem)])


def encoder_of(encoder: Encoder, tower: nn.Module | None, layers: int, init: str, width: int = 0) -> Any:
    """The encoder of a new student, whose vocabulary is the teacher's."""
    values = StudentHyperparameters(layers=layers, width=width, init=init, vocabulary="full")  # type: ignore[arg-type]
    return init_encoder(encoder, tower, None, values)[0]


def ignore(reached: RungReport) -> None:
    """A report that is not read."""


def student_values(**values: Any) -> StudentHyperparameters:
    """The default student with some values, by their names in the study file."""
    return StudentHyperparameters.from_dict(values)


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
    student = shared.start(StudentHyperparameters(lr=1e-3))

    def error() -> float:
        with full_precision(), torch.no_grad():
            return float(embedding_loss(VectorBatch(student.tower(shared.targets.items), shared.targets.vectors)))

    before = error()
    long = problem.spec.distill.model_copy(update={"embed_steps": 60})
    Distiller(student, shared.targets, problem.train, long).train_to(60)
    assert error() < 0.5 * before


@pytest.mark.parametrize("learner", ["protonet", "anil", "fomaml"])
def test_ranking_steps_train_encoder_and_head(problem: Problem, learner: str) -> None:
    """An inner loop that detaches the vectors would leave the encoder untrained, and nobody would notice."""
    shared = distillation(problem, teacher(problem, learner))
    student = shared.start(student_values(embedding=0.0, lr=1e-3))
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


def test_targets_are_computed_once(
    problem: Problem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Every resumed distillation would pay for its teachers again; and other teachers must not get these targets."""
    heard = Heard()
    monkeypatch.setattr(problem, "reporter", heard)

    def compute(one: Teacher) -> Distillation:
        return Distillation(problem, [one], tmp_path)

    first, again = compute(teacher(problem)), compute(teacher(problem))
    count = len(first.targets.scores)
    assert heard.reports["scoring episodes with the teachers"] == [(done, count) for done in range(1, count + 1)]
    for index, scores in first.targets.scores.items():
        assert torch.equal(again.targets.scores[index], scores)
    assert torch.equal(again.targets.vectors, first.targets.vectors)
    compute(teacher(problem, "anil"))
    assert len(heard.reports["scoring episodes with the teachers"]) == 2 * count
    for file in tmp_path.glob("targets-*/targets.safetensors"):
        file.write_bytes(file.read_bytes()[:-4] + bytes(4))  # a score, which nothing else would notice
    made = compute(teacher(problem))
    assert len(heard.reports["scoring episodes with the teachers"]) == 3 * count
    assert caplog.text.count("targets.safetensors was truncated or altered; it is made again") == 1
    for index, scores in first.targets.scores.items():
        assert torch.equal(made.targets.scores[index], scores)


def test_training_never_reads_held_out_texts(problem: Problem, monkeypatch: pytest.MonkeyPatch) -> None:
    """A student that has seen the test scenes' texts is not the student that a new scene will meet."""
    shared = distillation(problem, teacher(problem, "fomaml", trainable_layers=1))
    student = shared.start(student_values(hidden=1.0))
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


def test_a_subsampled_episode_scores_its_queries_the_same(problem: Problem) -> None:
    """Items left out by mistake would change histories silently: counts are matrices without names."""
    one = teacher(problem, "fomaml")
    episode = max(problem.train, key=lambda episode: len(episode.items) - episode.candidates)
    queries = torch.tensor([len(episode.relevant) - 1, 0])
    small, kept = subsample(episode, queries, np.random.default_rng(0))
    assert len(small.items) < len(episode.items)
    assert torch.equal(small.items[: small.candidates], episode.items[kept])

    def scores(of: object) -> torch.Tensor:
        vectors = one.learner.model.tower(of.items)  # type: ignore[attr-defined]
        return one.learner.adapt(of, vectors).scores(of.query_history)  # type: ignore[attr-defined, arg-type]

    assert small.candidates == episode.candidates  # so few that all remain
    torch.testing.assert_close(scores(small), scores(episode)[queries])
    assert torch.equal(small.relevant, episode.relevant[queries])


@pytest.mark.parametrize(
    ("smaller", "close"),
    [({"width": 352}, 0.7), ({"feed_forward": 768}, 0.7), ({"width": 352, "feed_forward": 1280}, 0.6)],
)
def test_a_narrower_student_starts_close_to_its_teacher(smaller: dict[str, int], close: float) -> None:
    """Rows of the wrong components, heads or neurons start as noise, which training hides well enough to ship."""
    encoder: Encoder = encoders.load(TeacherSection())
    nouns, kinds = ("milk", "shampoo", "dog food", "batteries", "apples"), ("organic", "family size", "cheap")
    tokens = tokenize(encoder.tokenizer, [f"{kind} {noun}" for noun in nouns for kind in kinds], 48)
    values = StudentHyperparameters(layers=6, vocabulary="full", **smaller)  # type: ignore[arg-type]
    model, projection = init_encoder(encoder, None, None, values)
    assert (projection is not None) == ("width" in smaller)
    units = smaller.get("feed_forward", 1536 * 352 // 384)
    assert model.transformer.layer[0].ffn.lin1.out_features == model.config.hidden_dim == units
    items = torch.arange(len(tokens))
    with full_precision(), torch.no_grad():
        ours = TokenTower(model, tokens, projection)(items)
        theirs = TokenTower(encoder.model, tokens)(items)
    assert float((ours * theirs).sum(1).mean()) > close


def test_a_narrow_students_heads_and_neurons_follow_its_width(problem: Problem) -> None:
    """Attention heads cut in the middle are no heads."""
    student = encoder_of(problem.encoder, None, 2, "first", width=16)
    assert (student.config.n_heads, student.config.hidden_dim) == (2, 32)
    with pytest.raises(InputError, match="40 wide cannot start"):
        encoder_of(problem.encoder, None, 2, "first", width=40)
    with pytest.raises(InputError, match=r"networks of 1000 cannot start.*distill\.space\.feed_forward"):
        student_config(problem.encoder, StudentHyperparameters(feed_forward=1000))


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
    assert shared.states(student_values(hidden=1.0)) is None
    assert shared.run_trial(student_values(hidden=1.0), tmp_path / "t", ignore) >= 0


@pytest.mark.parametrize("loss", ["embedding", "relational", "hidden"])
def test_each_loss_on_texts_falls_as_it_is_trained(problem: Problem, loss: str) -> None:
    """A weight that reaches no loss makes the search compare equal students."""
    shared = distillation(problem)
    off = dict.fromkeys(("embedding", "relational", "hidden"), 0.0)
    student = shared.start(student_values(**{**off, loss: 10.0}, lr=1e-3, spelling=0.0))
    problem.cache.build(needed(4, {2}, 0))
    states = TeacherStates(problem.cache, 4, 2, 0) if loss == "hidden" else None
    section = problem.spec.distill.model_copy(update={"embed_steps": 60})
    distiller = Distiller(student, shared.targets, problem.train, section, states)
    first = float(distiller.text_loss().detach())
    distiller.train_to(50)
    assert float(distiller.text_loss().detach()) < first


@pytest.mark.parametrize("loss", ["listwise", "margin", "hard"])
def test_each_loss_on_rankings_reaches_the_encoder(problem: Problem, loss: str) -> None:
    """As above, of episodes."""
    shared = distillation(problem)
    off = dict.fromkeys(("embedding", "relational", "listwise", "margin", "hard"), 0.0)
    student = shared.start(student_values(**{**off, loss: 1.0}))
    section = problem.spec.distill
    distiller = Distiller(student, shared.targets, problem.train, section)
    distiller.restore(
        {f"model.{name}": p.detach() for name, p in student.model.named_parameters()}, section.embed_steps
    )
    distiller.ranking_loss().backward()  # type: ignore[no-untyped-call]
    gradient = student.tower.model.transformer.layer[0].ffn.lin1.weight.grad
    assert gradient is not None
    assert float(gradient.abs().max()) > 0


@pytest.mark.parametrize("stop", [4, 6, 8])
def test_a_restored_distiller_goes_on_bit_for_bit(problem: Problem, tmp_path: Path, stop: int) -> None:
    """A resumed trial whose figures drift could not be compared with the others; both phases are cut into here."""
    shared = distillation(problem, teacher(problem, "anil"))
    values, section = StudentHyperparameters(), problem.spec.distill

    def fresh() -> Distiller:
        return Distiller(shared.start(values), shared.targets, problem.train, section)

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
    reports: list[RungReport] = []
    recall = shared.run_trial(StudentHyperparameters(), tmp_path / "whole", reports.append)
    assert [(report.rung, report.step) for report in reports] == [(0, 2), (1, 6), (2, 10)]
    assert reports[-1].recall == recall
    costs = [report.cost_seconds for report in reports]
    assert costs == sorted(costs)

    class Stopped(Exception):
        """What Ctrl-C looks like from inside."""

    def stop(reached: RungReport) -> None:
        if reached.step == 6:
            raise Stopped

    with pytest.raises(Stopped):
        shared.run_trial(StudentHyperparameters(), tmp_path / "cut", stop)
    later: list[RungReport] = []
    done: list[int] = []
    again = shared.run_trial(StudentHyperparameters(), tmp_path / "cut", later.append, progress=done.append)
    assert (again, [report.step for report in later], done) == (recall, [6, 10], [7, 8, 9, 10])
    student = load_student(problem, tmp_path / "cut")
    tensors, _ = checkpoints.last(tmp_path / "whole")
    for name, weight in student.model.named_parameters():
        assert torch.equal(weight, tensors[f"model.{name}"]), name
    # Training and serving differ in their attention kernels, so in the last bits.
    assert evaluate(student, problem, problem.validation).mean() == pytest.approx(recall, abs=0.02)


def test_a_trial_that_diverges_says_nan(problem: Problem, tmp_path: Path) -> None:
    """A crash would take the worker down; a finite figure would rank the trial."""
    reports: list[RungReport] = []
    recall = distillation(problem).run_trial(StudentHyperparameters(lr=1e30), tmp_path / "t", reports.append)
    assert math.isnan(recall)
    assert math.isnan(reports[-1].recall)
    assert reports[-1].scene_recalls == {}


def test_loading_refuses_another_studys_student(problem: Problem, tmp_path: Path) -> None:
    """Weights that happen to have the same shapes would load into a student of another encoder without a word."""
    distillation(problem).run_trial(StudentHyperparameters(), tmp_path / "t", ignore)
    other = copy.copy(problem)
    other.encoder = replace(problem.encoder, weights="another")
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
    assert [draw_episode(0, step, 50)[0] for step in range(5)] == [draw_episode(0, step, 50)[0] for step in range(5)]
    assert len({draw_episode(0, step, 50)[0] for step in range(20)}) > 5


def test_the_bundled_encoder_maps_exactly() -> None:
    """The random BERT has no trained biases: the real one shows a swapped or forgotten weight."""
    encoder: Encoder = encoders.load(TeacherSection())
    tokens = tokenize(encoder.tokenizer, ["whole milk", "dark chocolate with hazelnuts, 100 g"], 48)
    with full_precision(), torch.no_grad():
        ours = TokenTower(encoder_of(encoder, None, 6, "alternate"), tokens)(torch.arange(2))
        theirs = TokenTower(encoder.model, tokens)(torch.arange(2))
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


def test_a_narrow_students_states_are_compared_at_the_teachers_width(problem: Problem) -> None:
    """Without the projection dimensions would be compared that mean different things."""
    problem.cache.build(needed(4, {3}, 0))
    shared = distillation(problem)
    off = dict.fromkeys(LOSSES, 0.0)
    values = student_values(**off | {"hidden": 2.0, "width": 16, "layers": 3, "spelling": 0.0, "batch_size": 4})
    student, states = shared.start(values), shared.states(values)
    projection = student.tower.projection
    assert states is not None
    assert projection is not None
    loss = Distiller(student, shared.targets, problem.train, problem.spec.distill, states).text_loss()
    rows = np.random.default_rng([problem.spec.distill.seed, 0]).choice(len(shared.targets.items), 4, replace=False)
    items = shared.targets.items[torch.from_numpy(rows)]
    read = student.tower.read(items, states=True)
    squares = [
        (projection(read.states[layer]) - theirs)[read.mask].square().mean()
        for layer, theirs in zip(states.layers, states.of(items), strict=True)
    ]
    torch.testing.assert_close(loss, 2.0 * torch.stack(squares).mean(), rtol=0.02, atol=1e-4)  # bf16 where it is fast


def test_every_layer_has_a_gradient_where_no_loss_reads_vectors(problem: Problem) -> None:
    """AdamW leaves weights without a gradient alone: the layers above would not decay as those below do."""
    problem.cache.build(needed(4, {2}, 0))
    shared = distillation(problem)
    student = shared.start(student_values(**dict.fromkeys(LOSSES, 0.0) | {"hidden": 1.0}))
    states = shared.states(student.hyperparameters)
    Distiller(student, shared.targets, problem.train, problem.spec.distill, states).text_loss().backward()  # type: ignore[no-untyped-call]
    gradients = [parameter.grad for parameter in student.tower.model.transformer.parameters()]
    assert all(gradient is not None for gradient in gradients)
    assert [bool(gradient.any()) for gradient in gradients if gradient is not None].count(True) > 0
