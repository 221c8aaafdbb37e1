"""Trials from start to last rung: resumable, comparable, better than nothing, and never an exception for bad luck."""

import copy
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from storage.errors import CorruptArtifact, InputError
from storage.files import checkpoints
from studies.config.definition import FEWEST_SCENES, PrunerSection
from studies.config.hyperparameters import Hyperparameters
from studies.data.dataset import Dataset
from studies.episodes.sampler import EpisodeSampler
from studies.episodes.split import SplitName
from studies.evaluation.baselines import Random, SupportPopularity, ZeroShot
from studies.evaluation.evaluate import Adapted, ItemVectors, evaluate
from studies.learners.registry import RANKING_LEARNERS
from studies.learners.tasks.losses import ranking_loss
from studies.training.objective import load_teacher, run_trial
from studies.training.outer_loop import Diverged, ScheduledAdamW, Trainer
from studies.training.prepare import prepare
from studies.training.problem import Problem
from studies.training.ranking import RankingProblem
from studies.training.rungs import RungReport
from tests.synthetic import planted_dataset, tiny_encoder, tiny_spec

EVERY = sorted(RANKING_LEARNERS)
# Learner, layers that train, their dropout: towers that the inner loop leaves alone, and ones that it moves.
INTERRUPTED = [
    *[(name, 0, None) for name in ("protonet", "anil", "metasgd", "reptile")],
    *[("fomaml", 1, 0.0), ("protonet", 1, 0.1), ("finetune", 1, 0.1), ("maml", 1, 0.1)],
]


@pytest.fixture(scope="module")
def data() -> Dataset:
    return planted_dataset()


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_encoder(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="module")
def problem(data: Dataset, encoder: Path) -> Problem:
    return prepare(tiny_spec(encoder), encoder.parent / "cache", data=data)


def values(name: str, layers: int = 0, outer_lr: float = 5e-3, dropout: float | None = None) -> Hyperparameters:
    inner = {"inner_lr": 0.05, "inner_steps": 2} if RANKING_LEARNERS[name].takes_gradient_steps else {}
    return Hyperparameters(name, outer_lr, meta_batch_size=2, trainable_layers=layers, dropout=dropout, **inner)


def trainer_of(problem: Problem, hyperparameters: Hyperparameters, steps: int = 8) -> Trainer:
    return Trainer(problem.learner(hyperparameters), problem.train, steps, seed=0)


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(value, b[name]) for name, value in a.items())


@pytest.mark.parametrize("rung", [2, 4])
@pytest.mark.parametrize(
    ("name", "layers"), [("protonet", 0), ("anil", 0), ("fomaml", 0), ("protonet", 1), ("anil", 1), ("fomaml", 1)]
)
def test_training_restored_at_a_rung_goes_on_as_if_it_had_never_stopped(
    problem: Problem, tmp_path: Path, name: str, layers: int, rung: int
) -> None:
    """A moment, a step of the schedule or an order of episodes lost at a resume makes interrupted trials worse."""
    steps = 6
    whole = trainer_of(problem, values(name, layers), steps)
    whole.train_to(rung)
    checkpoints.save(tmp_path, whole.step, *whole.state())
    whole.train_to(steps)
    resumed = trainer_of(problem, values(name, layers), steps)
    resumed.restore(*checkpoints.last(tmp_path))
    assert resumed.step == rung
    resumed.train_to(steps)
    assert same(resumed.state()[0], whole.state()[0])
    assert resumed.state()[1] == whole.state()[1]


def test_training_moves_every_weight_that_trains_and_only_those(problem: Problem) -> None:
    """A weight that no gradient reaches would stay random through the whole search."""
    for name in EVERY:
        trainer = trainer_of(problem, values(name, layers=1))
        before = copy.deepcopy(trainer.learner.model.state_dict())
        trainer.train_to(3)
        after = trainer.learner.model.state_dict()
        # The appeal's last bias shifts all scores alike: nothing is to be learned of it, nor of its rate.
        constant = "head.inner_rates.appeal/2/bias"
        still = {key for key in before if key != constant and torch.equal(before[key], after[key])}
        # Without an inner loop that the outer one differentiates, the bias's own rate keeps its value.
        without = name in ("protonet", "finetune", "reptile")
        assert still == ({"head.bias_rate"} if without else set()), name


def test_trials_of_one_study_start_alike_and_see_the_same_episodes(problem: Problem) -> None:
    """Trials are compared pair by pair: luck of the start must be shared."""
    one, two = (trainer_of(problem, values("anil")) for _ in range(2))
    assert same(one.state()[0], two.state()[0])
    torch.rand(3)  # whatever else the process draws
    one.train_to(4)
    torch.rand(5)
    two.train_to(4)
    assert same(one.state()[0], two.state()[0])


@torch.no_grad()
def training_loss(problem: Problem, trainer: Trainer) -> float:
    learner = trainer.learner
    losses = []
    for episode in problem.train:
        adapted = learner.adapt(episode, learner.model.tower(episode.items))
        losses.append(ranking_loss(adapted.scores(episode.query_history), episode.relevant, episode.excluded))
    return float(torch.stack(losses).mean())


@pytest.mark.parametrize("name", EVERY)
def test_the_loss_falls_on_planted_tastes(problem: Problem, name: str) -> None:
    """A sign or a detach in the wrong place leaves everything running and nothing learned."""
    trainer = trainer_of(problem, values(name), steps=25)
    before = training_loss(problem, trainer)
    trainer.train_to(25)
    assert training_loss(problem, trainer) < before


def test_a_trained_learner_beats_what_learns_nothing_on_scenes_it_never_saw(data: Dataset, problem: Problem) -> None:
    """The whole path at once: tastes that only text and history show must be found in new scenes."""
    trainer = trainer_of(problem, replace(values("protonet", outer_lr=2e-2), meta_batch_size=4), steps=40)
    trainer.train_to(40)
    learned = problem.evaluate(trainer.learner, problem.validation).mean()
    for baseline in (Random(), SupportPopularity(), ZeroShot(problem.cache.pooled())):
        assert learned > evaluate(baseline, problem.validation, data.scenes, problem.spec.protocol.k).mean()


def heard(problem: Problem, hyperparameters: Hyperparameters, folder: Path) -> tuple[list[RungReport], float]:
    reports: list[RungReport] = []
    return reports, run_trial(problem, hyperparameters, folder, reports.append)


def untimed(reports: list[RungReport]) -> list[RungReport]:
    return [replace(report, cost_seconds=0.0, seconds_per_update=0.0) for report in reports]


class Stop(Exception):
    """What a pruner, or Ctrl-C, raises out of a report."""


@pytest.mark.parametrize(("name", "layers", "dropout"), INTERRUPTED)
def test_an_interrupted_trial_resumes_at_its_rung_and_ends_as_an_uninterrupted_one(
    problem: Problem, tmp_path: Path, name: str, layers: int, dropout: float | None
) -> None:
    """Repeated rungs cost the study hours; a recall that differs after a resume makes its record a lottery."""
    tried = values(name, layers, dropout=dropout)
    whole, recall = heard(problem, tried, tmp_path / "whole")
    assert [(report.rung, report.step) for report in whole] == [(0, 2), (1, 4), (2, 8)]
    first: list[RungReport] = []

    def stop_at_the_second(report: RungReport) -> None:
        first.append(report)
        if report.rung == 1:
            raise Stop

    with pytest.raises(Stop):
        run_trial(problem, tried, tmp_path / "stopped", stop_at_the_second)
    second, resumed = heard(problem, tried, tmp_path / "stopped")
    assert untimed(first + second[1:]) == untimed(whole)
    # The rung of the checkpoint is told again, unchanged: the stop may have come before anyone heard it.
    assert second[0] == first[-1]
    assert resumed == recall == whole[-1].recall
    costs = [report.cost_seconds for report in first + second]
    assert costs == sorted(costs)
    assert costs[0] > 0
    assert same(checkpoints.last(tmp_path / "whole")[0], checkpoints.last(tmp_path / "stopped")[0])


@pytest.mark.parametrize("rate", [0.0, 0.1])
def test_dropout_is_on_in_meta_updates_alone_and_only_if_its_rate_says_so(problem: Problem, rate: float) -> None:
    """Switched on by an evaluation, it makes each rung train in another way; on while adapting, recall is a draw."""
    trainer = trainer_of(problem, values("fomaml", layers=1, dropout=rate))
    tower = trainer.learner.model.tower
    dropouts = [module for module in tower.modules() if isinstance(module, nn.Dropout)]
    on: list[bool] = []
    for module in dropouts:
        module.register_forward_pre_hook(lambda module, _: on.append(module.training and module.p > 0))
    before = torch.random.get_rng_state()
    for step in (1, 2):
        trainer.train_to(step)
        assert set(on) == {rate > 0}
        on.clear()
        recall = problem.evaluate(trainer.learner, problem.validation).mean()
        assert problem.evaluate(trainer.learner, problem.validation).mean() == recall
        assert set(on) == {False}
        on.clear()
    assert torch.equal(torch.random.get_rng_state(), before)
    assert {module.p for module in dropouts} == {rate}
    assert not any(module.training for module in tower.modules())


def test_what_is_dropped_out_is_a_function_of_seed_and_step_and_ends_with_an_interruption(
    problem: Problem, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Drawn from the process's own numbers, a resumed trial would drop out others."""
    learner = problem.learner(values("protonet", layers=1, dropout=0.1))
    losses = {(seed, n): Trainer(learner, problem.train[:1], 8, seed).backward(0) for seed in (0, 1) for n in (0, 1)}
    assert losses[0, 0] == losses[0, 1] != losses[1, 0] == losses[1, 1]

    def interrupted(episodes: object) -> float:
        raise KeyboardInterrupt

    monkeypatch.setattr(learner, "meta_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        Trainer(learner, problem.train[:1], 8, seed=0).backward(0)
    assert not any(module.training for module in learner.model.tower.modules())


def test_a_trial_says_after_each_update_how_much_of_it_is_done(problem: Problem, tmp_path: Path) -> None:
    """Who watches a trial of an hour sees from it that it goes on, and after a resume where it is."""
    shares: list[float] = []

    def stop_at_the_second(report: RungReport) -> None:
        if report.rung == 1:
            raise Stop

    with pytest.raises(Stop):
        run_trial(problem, values("protonet"), tmp_path / "trial", stop_at_the_second, shares.append)
    assert shares == [1 / 8, 2 / 8, 3 / 8, 4 / 8]
    run_trial(problem, values("protonet"), tmp_path / "trial", lambda report: None, shares.append)
    assert shares[4:] == [5 / 8, 6 / 8, 7 / 8, 1]


def test_a_finished_trial_is_not_trained_again(problem: Problem, tmp_path: Path) -> None:
    """A worker that dies between the last rung and telling the database must cost nothing to repeat."""
    reports, recall = heard(problem, values("anil"), tmp_path / "trial")
    weights = tmp_path / "trial" / "step-000008" / "weights.safetensors"
    written = weights.stat().st_mtime_ns
    again, repeated = heard(problem, values("anil"), tmp_path / "trial")
    assert again == reports[-1:]
    assert repeated == recall
    assert weights.stat().st_mtime_ns == written


def test_a_trial_goes_on_from_the_rung_before_a_damaged_one_and_ends_as_it_would_have(
    problem: Problem, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """One bad block would cost a trial all its rungs; taken for good, it would cost the study its comparison."""
    whole, recall = heard(problem, values("anil"), tmp_path / "trial")
    names = ["step-000004", "step-000008"]
    assert sorted(path.name for path in (tmp_path / "trial").iterdir()) == names
    weights = tmp_path / "trial" / "step-000008" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-9])
    with pytest.raises(CorruptArtifact, match="an earlier checkpoint must not stand in for it"):
        load_teacher(problem, tmp_path / "trial")
    again, repeated = heard(problem, values("anil"), tmp_path / "trial")
    assert "step-000008" in caplog.text
    assert again[0] == whole[1]
    assert (untimed(again), repeated) == (untimed(whole[1:]), recall)
    assert sorted(path.name for path in (tmp_path / "trial").iterdir()) == names
    load_teacher(problem, tmp_path / "trial")


def test_a_report_holds_the_recall_of_every_validation_scene_and_their_mean(problem: Problem, tmp_path: Path) -> None:
    """Paired comparisons read the scenes, the sampler reads the mean: they must be of the same evaluation."""
    reports, recall = heard(problem, values("protonet"), tmp_path / "trial")
    names = {problem.data.scenes[code] for code in problem.split.scenes["validation"]}
    for report in reports:
        assert set(report.scene_recalls) <= names
        assert len(report.scene_recalls) >= 3
        assert report.recall == pytest.approx(sum(report.scene_recalls.values()) / len(report.scene_recalls))
    teacher = load_teacher(problem, tmp_path / "trial")
    assert problem.evaluate(teacher, problem.validation).mean() == recall


def test_the_first_rung_reads_some_scenes_and_every_later_one_reads_all(tmp_path: Path) -> None:
    """At the first rung most of a cheap trial's cost is its evaluation; the end is what trials are chosen by."""
    encoder = tiny_encoder(tmp_path / "tiny")
    spec = tiny_spec(encoder, pruner={"first_rung_scenes": 0.1})
    problem = prepare(spec, tmp_path / "cache", data=planted_dataset(scenes=48, users=120))
    names = problem.scene_names("validation")
    assert len(names) > FEWEST_SCENES
    reports, _ = heard(problem, values("protonet"), tmp_path / "trial")
    assert set(reports[0].scene_recalls) == spec.pruner.scenes_at(0, names)
    assert len(reports[0].scene_recalls) == FEWEST_SCENES
    assert [set(report.scene_recalls) for report in reports[1:]] == [names, names]


def test_the_scenes_of_the_first_rung_are_spread_over_all_and_depend_on_nothing_else() -> None:
    """Workers compute them apart: with others, their recalls could not be compared."""
    names = [f"scene {number:03}" for number in range(100)]

    def of(share: float, names: list[str], rung: int = 0, rungs: tuple[int, ...] = (1, 2)) -> frozenset[str]:
        return PrunerSection(first_rung_scenes=share, rungs=list(rungs)).scenes_at(rung, names)

    assert of(0.2, names[::-1]) == set(names[::5])
    assert of(0.02, names) == set(names[::10])
    assert of(0.2, names[:4]) == set(names[:4])
    assert of(1.0, names) == of(0.2, names, rung=1) == of(0.2, names, rungs=(1,)) == set(names)


def test_a_search_never_samples_a_test_episode(
    problem: Problem, data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Test scenes are scored once, at the end: a search that has them in memory will sooner or later use them."""
    fresh = RankingProblem(problem.spec, data, problem.split, problem.encoder, tmp_path / "cache")
    fresh.cache.build({0})
    sampled: set[SplitName] = set()
    honest = EpisodeSampler.sample
    monkeypatch.setattr(
        EpisodeSampler, "sample", lambda self, part, *rest: sampled.add(part) or honest(self, part, *rest)
    )
    heard(fresh, values("protonet"), tmp_path / "trial")
    assert sampled == {"train", "validation"}


@pytest.mark.parametrize("name", EVERY)
def test_an_absurd_learning_rate_is_reported_as_nan_and_is_no_error(
    problem: Problem, tmp_path: Path, name: str
) -> None:
    """An exception would end the worker; a number would be ranked with the others."""
    reports, recall = heard(problem, values(name, outer_lr=1e30), tmp_path / "trial")
    assert math.isnan(recall)
    assert math.isnan(reports[-1].recall)
    assert reports[-1].scene_recalls == {}
    assert reports[-1].rung == len(reports) - 1
    assert not any(math.isnan(report.recall) for report in reports[:-1])


def test_a_loss_that_is_not_finite_raises_before_any_weight_moves() -> None:
    """One NaN step and the checkpoint is lost with the trial."""
    model = nn.Linear(2, 1)
    before = copy.deepcopy(model.state_dict())
    optimizer = ScheduledAdamW(model, lr=0.1, weight_decay=0.1, steps=5)

    def infinite() -> float:
        (model(torch.ones(1, 2)).sum() * math.inf).backward()
        return math.inf

    def gradient_alone() -> float:
        (model(torch.ones(1, 2)).sum() * math.inf).backward()
        return 1.0

    for backward in (infinite, gradient_alone):
        with pytest.raises(Diverged):
            optimizer.update(backward)
    assert same(dict(model.state_dict()), before)
    assert optimizer.step == 0


def test_a_restored_optimizer_holds_its_moments_beside_the_weights_and_counts_on_the_cpu() -> None:
    """AdamW refuses moments on another device than their weight's, and reads every weight's count at each update."""
    trained, elsewhere = nn.Linear(2, 1), nn.Linear(2, 1, device="meta")
    optimizer = ScheduledAdamW(trained, lr=0.1, weight_decay=0.1, steps=5)

    def slope() -> float:
        trained(torch.ones(1, 2)).sum().backward()
        return 0.0

    optimizer.update(slope)
    restored = ScheduledAdamW(elsewhere, lr=0.1, weight_decay=0.1, steps=5)
    restored.restore(optimizer.state(), step=1)
    devices = {name: tensor.device.type for name, tensor in restored.state().items()}
    assert {devices[f"optimizer.step.{name}"] for name in ("weight", "bias")} == {"cpu"}
    assert {devices[f"optimizer.{key}.weight"] for key in ("exp_avg", "exp_avg_sq")} == {"meta"}


def test_the_learning_rate_warms_up_then_falls_to_zero() -> None:
    """With the rungs' last step as the end, each update's rate is known; a shifted schedule would train past it."""
    parameter = nn.Linear(1, 1, bias=False)
    parameter.weight.data.zero_()
    optimizer = ScheduledAdamW(parameter, lr=0.5, weight_decay=0.0, steps=20)
    moved = []

    def slope() -> float:
        parameter.weight.sum().backward()
        return 0.0

    for _ in range(20):
        at = parameter.weight.item()
        optimizer.update(slope)
        moved.append(at - parameter.weight.item())  # a constant gradient moves AdamW by its rate
    expected = [0.25, 0.5, *(0.25 * (1 + math.cos(math.pi * n / 18)) for n in range(18))]
    assert moved == pytest.approx(expected, abs=1e-4)


def test_a_checkpoint_of_another_architecture_is_refused_with_the_remedy(problem: Problem, tmp_path: Path) -> None:
    """Loaded in part, it would be half a teacher and half noise."""
    trainer = trainer_of(problem, values("protonet", layers=1))
    tensors, metadata = trainer.state()
    renamed = {name.replace("head.user", "head.customer"): tensor for name, tensor in tensors.items()}
    reshaped = tensors | {"model.head.feature_weights": torch.ones(8)}
    for number, wrong in enumerate((renamed, reshaped)):
        checkpoints.save(tmp_path / str(number), 8, wrong, metadata)
        with pytest.raises(InputError, match=r"does not fit this study's model .*delete the study"):
            load_teacher(problem, tmp_path / str(number))


def test_a_checkpoint_of_another_trial_is_not_continued(problem: Problem, tmp_path: Path) -> None:
    """Its learner's weights have the same names and shapes: nothing else would notice."""
    heard(problem, values("fomaml"), tmp_path / "trial")
    for other in (values("reptile"), replace(values("fomaml"), inner_lr=0.3)):
        with pytest.raises(InputError, match=r"is of another trial or version .*fomaml.*remove that folder"):
            heard(problem, other, tmp_path / "trial")


def test_the_encoder_trains_at_a_rate_of_its_own(problem: Problem) -> None:
    """At the head's rate a pretrained layer forgets in an update what it was trained for."""
    moved = {}
    for encoder_lr in (1e-6, 1e-4):
        trainer = trainer_of(problem, replace(values("protonet", layers=1), encoder_lr=encoder_lr), steps=4)
        before = copy.deepcopy(trainer.learner.model.state_dict())
        trainer.train_to(1)
        after = trainer.learner.model.state_dict()
        moved[encoder_lr] = {name: float((after[name] - before[name]).abs().max()) for name in before}
    layer = next(name for name in moved[1e-6] if name.endswith("output.dense.weight"))
    assert moved[1e-4][layer] == pytest.approx(100 * moved[1e-6][layer], rel=0.05)
    assert moved[1e-4]["head.project.weight"] == pytest.approx(moved[1e-6]["head.project.weight"], rel=0.05)


def test_thinned_training_stays_a_function_of_the_step(problem: Problem) -> None:
    """Candidates drawn from another stream than the episodes would differ after a resume."""
    trainer = trainer_of(problem, replace(values("protonet", layers=1), train_candidates=8))
    first, again = trainer.batch(3), trainer.batch(3)
    assert [e.items.tolist() for e in first] == [e.items.tolist() for e in again]
    assert all(e.candidates <= max(8, int(e.relevant.any(0).sum()) + len(e.support)) for e in first)


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ({"search": {"space": {"trainable_layers": [0, 5]}}}, r"trainable_layers goes up to 5, .* has 4 layers; lower"),
        ({"search": {"space": {"trainable_layers": {"low": 0, "high": 6}}}}, r"goes up to 6, .* has 4 layers"),
        ({"distill": {"space": {"layers": [1, 5]}}}, r"distill\.space\.layers goes up to 5, .* has 4 layers"),
        (
            {"distill": {"space": {"width": 40}}},
            r"distill\.space\.width = 40: .* is 32 wide, with attention heads of 8",
        ),
        ({"distill": {"space": {"width": [0, 12]}}}, "give a multiple of 8 up to 32, or 0 for all of it"),
        (
            {"distill": {"space": {"feed_forward": [0, 65]}}},
            r"distill\.space\.feed_forward goes up to 65, .* have 64 units; give at most that, or 0",
        ),
    ],
)
def test_more_layers_than_the_encoder_has_are_refused_before_anything_is_computed(
    data: Dataset, encoder: Path, tmp_path: Path, section: dict[str, dict[str, object]], said: str
) -> None:
    """Found out by the first trial that draws it, it would fail after minutes of encoding."""
    with pytest.raises(InputError, match=said):
        prepare(tiny_spec(encoder, **section), tmp_path / "cache", data=data)
    assert not (tmp_path / "cache").exists()


def test_evaluation_looks_up_the_vectors_that_the_tower_would_give(problem: Problem) -> None:
    """Encoded once for all episodes, a vector at the wrong row would be another product's."""
    learner = problem.learner(values("anil"))
    system = Adapted(learner, ItemVectors(learner.model.tower, problem.validation, problem.tokens.lengths))
    for episode in problem.validation:
        expected = learner.adapt(episode, learner.model.tower(episode.items)).scores(episode.query_history)
        torch.testing.assert_close(system.scores(episode), expected.detach())


def test_a_score_that_is_not_finite_names_its_scene(problem: Problem) -> None:
    """Sorted, NaN comes first or last as it pleases: a recall of nothing in particular."""

    class Broken:
        def scores(self, episode: object) -> Tensor:
            """One NaN among zeros."""
            found = torch.zeros(problem.validation[0].relevant.shape)
            found[0, 0] = math.nan
            return found

    name = problem.data.scenes[problem.validation[0].scene]
    with pytest.raises(FloatingPointError, match=f"a score for scene '{name}' is not finite"):
        evaluate(Broken(), problem.validation, problem.data.scenes, 5)


def test_progress_reaches_its_end(problem: Problem) -> None:
    """A bar that stops short looks like a hang."""
    seen: list[tuple[int, int]] = []
    note: Callable[[int, int], None] = lambda done, total: seen.append((done, total))  # noqa: E731
    evaluate(Random(), problem.validation, problem.data.scenes, 5, note)
    assert seen == [(n, len(problem.validation)) for n in range(1, len(problem.validation) + 1)]
