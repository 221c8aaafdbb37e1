"""Learners over labelled episodes against their definitions: by hand, by other libraries, by finite differences."""

import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from torch import Tensor
from torch.nn import functional

from studies.classification.episode import LabelledEpisode
from studies.classification.learning.adapted import AdaptedClassifier
from studies.classification.learning.classification_task import ClassificationTask, balanced
from studies.classification.learning.head import Classifier, ClassifierHead, JointClasses
from studies.classification.learning.tasks import LabelledTasks, classification_learner
from studies.config.definition import TeacherSection
from studies.config.hyperparameters import NAME_USES, Hyperparameters, NameUse
from studies.learners.base import Learner
from studies.learners.registry import CLASSIFICATION_LEARNERS
from studies.learners.ridge import solve
from studies.model.activation_cache import ActivationCache
from studies.model.device import full_precision
from studies.model.encoder import load, tokenize
from studies.model.towers import FrozenTower, build_tower
from studies.training.outer_loop import Trainer
from tests.synthetic import BRANDS, COLOURS, SCENES, SIZES, tiny_encoder

ITEMS, WIDTH, CLASSES, WAYS = 40, 6, 7, 3
EVERY = sorted(CLASSIFICATION_LEARNERS)
GRADIENT = [name for name, entry in CLASSIFICATION_LEARNERS.items() if entry.takes_gradient_steps]
# Whose outer gradient is the derivative of a loss that evaluation computes too.
OF_A_LOSS = ["anil", "maml", "metasgd", "protonet", "ridge"]


def values(name: str, inner_lr: float = 0.1, class_names: NameUse = "read", **more: Any) -> Hyperparameters:
    inner = {"inner_lr": inner_lr, "inner_steps": 2} if name in GRADIENT else {}
    return Hyperparameters(name, class_names=class_names, **inner | more)


def learner_of(name: str, seed: int = 0, vmap_episodes: int | None = None, **more: Any) -> Learner:
    """A small learner in float64 with every weight away from its start, so that no gradient vanishes by symmetry."""
    generator = torch.Generator().manual_seed(seed)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    hyperparameters = values(name, **more)
    entry = hyperparameters.entry
    joint = JointClasses(torch.arange(CLASSES) * 2, drawn(CLASSES, WIDTH)) if entry.baseline else None
    head = ClassifierHead(WIDTH, 0.3, entry, joint, reads_names=hyperparameters.reads_names).double()
    with torch.no_grad():
        for name, parameter in head.named_parameters():  # each the same whatever else the head holds
            own = torch.Generator().manual_seed(seed + zlib.crc32(name.encode()))
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=own, dtype=torch.float64))
    table = functional.normalize(drawn(ITEMS, WIDTH), dim=1)
    return classification_learner(Classifier(FrozenTower(table), head), hyperparameters, vmap_episodes=vmap_episodes)


def episode_of(seed: int = 0, shots: int = 2, queries: int = 2, ways: int = WAYS) -> LabelledEpisode:
    generator = torch.Generator().manual_seed(seed)
    items = torch.randperm(ITEMS, generator=generator)[: ways * (shots + queries + 1)].sort().values
    places = torch.randperm(len(items), generator=generator)
    return LabelledEpisode(
        name=f"episode {seed}",
        classes=torch.randperm(CLASSES, generator=generator)[:ways] * 2,
        items=items,
        support=places[: ways * shots],
        support_labels=torch.arange(ways).repeat_interleave(shots),
        query=places[ways * shots : ways * (shots + queries)],
        query_labels=torch.arange(ways).repeat_interleave(queries),
        names=places[ways * (shots + queries) :],
    )


def adapt(learner: Learner, episode: LabelledEpisode, training: bool = False) -> AdaptedClassifier:
    vectors = learner.model.tower(episode.items)
    adapted: AdaptedClassifier = learner.adapt(episode, vectors, training=training)
    return adapted


def query_logits(learner: Learner, episode: LabelledEpisode) -> Tensor:
    adapted = adapt(learner, episode)
    with torch.no_grad():
        return adapted.logits(adapted.query_vectors)


def gradients(learner: Learner, episodes: list[LabelledEpisode]) -> dict[str, Tensor]:
    learner.model.zero_grad()
    learner.meta_step(episodes)
    return {n: p.grad.clone() for n, p in learner.model.named_parameters() if p.grad is not None}


def outer_loss(learner: Learner, episodes: list[LabelledEpisode]) -> float:
    """The outer loss through evaluation alone: no graph, so nothing shared with the meta-gradient."""
    losses = [functional.cross_entropy(query_logits(learner, e), e.query_labels) for e in episodes]
    return float(torch.stack(losses).mean())


def unit(vector: Tensor) -> Tensor:
    return vector / vector.square().sum().sqrt()


@pytest.mark.parametrize("class_names", NAME_USES)
def test_prototypes_are_the_means_of_each_classs_projected_vectors_and_its_names(class_names: NameUse) -> None:
    """Everything else starts from these: a class that took a neighbour's text would still learn, only worse."""
    learner, episode = learner_of("protonet", class_names=class_names), episode_of(shots=3)
    head, table = learner.model.head, learner.model.tower.locked

    def projected(position: Tensor) -> Tensor:
        vector = table[episode.items[position]]
        return unit(vector + head.project.weight.detach() @ vector)

    found = adapt(learner, episode).probabilities(table[episode.items[episode.query]])
    for row, position in enumerate(episode.query):
        logits = []
        for label in range(WAYS):
            own = [projected(p) for p, of in zip(episode.support, episode.support_labels, strict=True) if of == label]
            if class_names == "read":
                own.append(head.log_name_weight.detach().exp() * projected(episode.names[label]))
            logits.append(head.log_scale.detach().exp() * projected(position) @ unit(sum(own)))
        torch.testing.assert_close(found[row], torch.stack(logits).softmax(0))


@pytest.mark.parametrize("name", EVERY)
def test_names_of_no_weight_are_ignored_and_names_of_a_great_one_are_zero_shot(name: str) -> None:
    """Labels that say nothing must cost nothing: the search and the outer loop lower the weight."""
    episode, (learner, ignoring) = episode_of(shots=1), (learner_of(name, class_names=each) for each in NAME_USES)
    ignoring.model.load_state_dict(learner.model.state_dict(), strict=False)
    with torch.no_grad():
        learner.model.head.log_name_weight.fill_(-60)
        torch.testing.assert_close(query_logits(learner, episode), query_logits(ignoring, episode))
        learner.model.head.log_name_weight.fill_(40)
        if name == "protonet":
            named = learner.model.head(learner.model.tower(episode.items[episode.names]))
            torch.testing.assert_close(adapt(learner, episode).class_weights, named)


def test_training_lowers_the_weight_of_names_that_say_nothing_and_keeps_that_of_names_that_do() -> None:
    """Codes such as "c17" are names too."""
    ways, texts, episodes = 4, 8, 12
    for telling in (True, False):
        generator = torch.Generator().manual_seed(0)
        centres = torch.randn((episodes * ways, 16), generator=generator)
        noise = torch.randn((episodes * ways, texts + 1, 16), generator=generator)
        vectors = centres[:, None] + noise
        vectors[:, texts] = centres if telling else 4 * noise[:, texts]
        table = functional.normalize(vectors.flatten(0, 1), dim=1)
        hyperparameters = Hyperparameters("protonet", 0.02, 4, head="scalars", class_names="read")
        head = ClassifierHead(16, 0.1, hyperparameters.entry, reads_names=True)
        head.train_only("scalars")
        learner = classification_learner(Classifier(FrozenTower(table), head), hyperparameters)
        drawn = []
        for number in range(episodes):
            places = torch.arange(ways * (texts + 1)).view(ways, texts + 1)
            drawn.append(
                LabelledEpisode(
                    name=f"episode {number}",
                    classes=torch.arange(ways) + number * ways,
                    items=torch.arange(ways * (texts + 1)) + number * ways * (texts + 1),
                    support=places[:, :2].flatten(),
                    support_labels=torch.arange(ways).repeat_interleave(2),
                    query=places[:, 2:texts].flatten(),
                    query_labels=torch.arange(ways).repeat_interleave(texts - 2),
                    names=places[:, texts],
                )
            )
        Trainer(learner, drawn, 40, seed=0).train_to(40)
        weight = float(head.log_name_weight.detach().exp())
        assert weight > 1.5 if telling else weight < 0.2, weight


@pytest.mark.parametrize("class_names", NAME_USES)
@pytest.mark.parametrize("shots", [1, 5])
def test_ridge_solves_the_regression_that_other_libraries_solve(shots: int, class_names: NameUse) -> None:
    """In its dual form a transposed product has the right shape where there are as many texts as classes."""
    learner, episode = learner_of("ridge", class_names=class_names), episode_of(shots=shots)
    head = learner.model.head
    adapted = adapt(learner, episode)
    examples, labels, counts = episode.support, episode.support_labels, torch.ones(len(episode.support))
    if class_names == "read":
        examples, labels = torch.cat([examples, episode.names]), torch.cat([labels, torch.arange(WAYS)])
        counts = torch.cat([counts, head.log_name_weight.detach().exp().expand(WAYS)])
    with torch.no_grad():
        z = head(learner.model.tower(episode.items[examples]))
        penalty, intercept = float(head.ridge_penalty.exp()), float(head.ridge_intercept)
    design = np.hstack([z.numpy(), np.full((len(z), 1), intercept)])
    targets, weighted = np.eye(WAYS)[labels.numpy()], counts.numpy()[:, None] * design
    normal = np.linalg.solve(design.T @ weighted + penalty * np.eye(WIDTH + 1), weighted.T @ targets)
    model = Ridge(alpha=penalty, fit_intercept=False, solver="cholesky")
    theirs = model.fit(design, targets, sample_weight=counts.numpy()).coef_.T
    np.testing.assert_allclose(normal, theirs, rtol=1e-8, atol=1e-10)
    ours = torch.cat([adapted.class_weights.T, adapted.bias[None] / (intercept * adapted.scale)])
    np.testing.assert_allclose(ours.numpy(), normal, rtol=1e-8, atol=1e-10)
    with torch.no_grad():
        query = learner.model.tower(episode.items[episode.query])
        wide = np.hstack([head(query).numpy(), np.full((len(query), 1), intercept)])
        scale = float(head.log_scale.exp())
    np.testing.assert_allclose(adapted.logits(query).numpy(), scale * wide @ normal, rtol=1e-8)


def test_classes_count_the_same_whatever_their_number_of_texts_names_included() -> None:
    """Serving has as many labelled texts of a class as somebody labelled, and one name of each."""
    labels, weights = torch.tensor([0, 0, 0, 1, 0, 1]), torch.tensor([1, 1, 1, 1, 0.5, 0.5])
    found = balanced(weights, labels, 2)
    torch.testing.assert_close(found, torch.tensor([5 / 7] * 3 + [5 / 3, 5 / 14, 5 / 6]))
    assert balanced(weights, torch.tensor([0, 0, 1, 1, 0, 1]), 2).tolist() == weights.tolist()


def test_ridge_of_several_episodes_is_that_of_each() -> None:
    """A batched solve that mixes episodes up has the same shapes."""
    vectors, targets = torch.randn(4, 5, WIDTH).double(), torch.randn(4, 5, WAYS).double()
    penalty, intercept = torch.tensor(0.3).double(), torch.tensor(0.7).double()
    counts = torch.rand(5).double()
    weights, bias = solve(vectors, targets, penalty, intercept, counts)
    for number in range(4):
        torch.testing.assert_close(
            (weights[number], bias[number]), solve(vectors[number], targets[number], penalty, intercept, counts)
        )


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("name", OF_A_LOSS)
def test_the_meta_gradient_equals_finite_differences_through_the_adaptation(name: str, seed: int) -> None:
    """A gradient cut anywhere in inner loop or solver still trains, only worse: nobody would notice."""
    learner = learner_of(name, seed)
    episodes = [episode_of(seed), episode_of(seed + 10, shots=1, ways=4)]
    analytic = gradients(learner, episodes)
    assert set(analytic) == {name for name, _ in learner.model.named_parameters()}
    generator = torch.Generator().manual_seed(seed)
    step = 1e-5
    for parameter_name, gradient in analytic.items():
        flat = learner.model.get_parameter(parameter_name).data.view(-1)
        for index in torch.randperm(len(flat), generator=generator)[:4].tolist():
            at = float(flat[index])
            losses = []
            for moved in (at + step, at - step):
                flat[index] = moved
                losses.append(outer_loss(learner, episodes))
            flat[index] = at
            numeric = (losses[0] - losses[1]) / (2 * step)
            assert float(gradient.view(-1)[index]) == pytest.approx(numeric, rel=1e-6, abs=1e-9), parameter_name


def by_hand(learner: Learner, episode: LabelledEpisode, second_order: bool) -> dict[str, Tensor]:
    """The outer gradient of (first-order) Proto-MAML as derivatives of plain functions of the head's weights."""
    table, lr = learner.model.tower.locked, learner.hyperparameters.inner_lr
    support, query = table[episode.items[episode.support]], table[episode.items[episode.query]]

    def project(weights: dict[str, Tensor], x: Tensor) -> Tensor:
        return functional.normalize(x + x @ weights["project"].T, dim=1)

    def loss(weights: dict[str, Tensor], x: Tensor, labels: Tensor) -> Tensor:
        classes = functional.normalize(weights["classes"], dim=1)
        return functional.cross_entropy(
            weights["log_scale"].exp() * project(weights, x) @ classes.T + weights["bias"], labels
        )

    own = {n: p.detach().clone().requires_grad_() for n, p in learner.model.head.named_parameters()}
    weights = {"project": own["project.weight"], "log_scale": own["log_scale"]}
    z = project(weights, support)
    sums = torch.stack([z[episode.support_labels == label].sum(0) for label in range(WAYS)])
    sums = sums + own["log_name_weight"].exp() * project(weights, table[episode.items[episode.names]])
    weights |= {"classes": functional.normalize(sums, dim=1), "bias": torch.zeros(WAYS, dtype=torch.float64)}
    rates = dict.fromkeys(("project", "log_scale"), lr) | dict.fromkeys(
        ("classes", "bias"), lr * own["weight_rate"].exp()
    )
    for _ in range(2):
        if second_order:
            grads = torch.func.grad(loss)(weights, support, episode.support_labels)
        else:
            leaves = {n: w.detach().requires_grad_() for n, w in weights.items()}
            found = torch.autograd.grad(loss(leaves, support, episode.support_labels), list(leaves.values()))
            grads = dict(zip(leaves, found, strict=True))
        weights = {n: w - rates[n] * grads[n] for n, w in weights.items()}
    outer = loss(weights, query, episode.query_labels)
    return {f"head.{n}": g for n, g in zip(own, torch.autograd.grad(outer, list(own.values())), strict=True)}


@pytest.mark.parametrize("name", ["maml", "fomaml"])
def test_mamls_gradient_equals_an_independent_one(name: str) -> None:
    """The classes start at prototypes of the same weights that adapt: their two paths are easily taken for one."""
    learner, episode = learner_of(name), episode_of()
    found, expected = gradients(learner, [episode]), by_hand(learner, episode, name == "maml")
    assert set(found) == set(expected)
    for parameter, gradient in found.items():
        torch.testing.assert_close(gradient, expected[parameter], rtol=1e-8, atol=1e-10, msg=parameter)
    other = by_hand(learner, episode, name != "maml")["head.project.weight"]
    assert not torch.allclose(found["head.project.weight"], other, rtol=0.05)


def test_anil_moves_the_classes_alone_and_maml_the_head_too() -> None:
    """A projection that moved along would make of ANIL another, slower learner."""
    episode = episode_of()
    start = adapt(learner_of("protonet"), episode)
    anil, maml = (adapt(learner_of(name), episode) for name in ("anil", "maml"))
    head = learner_of("anil").model.head
    torch.testing.assert_close(anil.projection, head.project.weight.detach(), rtol=0, atol=0)
    torch.testing.assert_close(anil.scale, head.log_scale.detach().exp())
    assert not torch.allclose(anil.class_weights, start.class_weights, atol=1e-3)
    assert float(anil.bias.abs().min()) > 0
    assert not torch.allclose(maml.projection, anil.projection, atol=1e-3)


def test_metasgd_starts_as_maml_and_its_rates_scale_each_weights_step() -> None:
    """A rate that is learned but not used, or used but not learned, would go unnoticed."""
    learner, episode = learner_of("metasgd"), episode_of()
    with torch.no_grad():
        for rate in learner.model.head.inner_rates.values():
            rate.fill_(1)
    plain = classification_learner(learner.model, values("maml"))
    torch.testing.assert_close(query_logits(learner, episode), query_logits(plain, episode))
    with torch.no_grad():
        learner.model.head.inner_rates["project/weight"].fill_(0)
    torch.testing.assert_close(adapt(learner, episode).projection, learner.model.head.project.weight.detach())


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_fine_tuning_trains_on_plain_cross_entropy_over_the_training_classes(smoothing: float) -> None:
    """Over the episode's classes alone it would be another meta-learner under the rival's name."""
    learner, episodes = learner_of("finetune", label_smoothing=smoothing), [episode_of(1), episode_of(2, shots=1)]
    head, table = learner.model.head, learner.model.tower.locked
    expected = []
    for episode in episodes:
        texts = table[episode.items[torch.cat([episode.support, episode.query])]]
        labels = torch.cat([episode.support_labels, episode.query_labels])
        logits = head.log_scale.exp() * head(texts) @ functional.normalize(head.class_vectors, dim=1).T
        codes = [int(episode.classes[label]) // 2 for label in labels]
        wanted = functional.one_hot(torch.tensor(codes), CLASSES) * (1 - smoothing) + smoothing / CLASSES
        expected.append(-(wanted * logits.log_softmax(1)).sum(1).mean())
    start = JointClasses.at_means(table[:4], torch.tensor([6, 2, 6, 2]))
    assert start.codes.tolist() == [2, 6]
    torch.testing.assert_close(start.start[1], unit(table[0] + table[2]))
    assert learner.meta_step(episodes) == pytest.approx(float(torch.stack(expected).mean().detach()))
    # It adapts as any other: from the prototypes, without the training classes.
    assert adapt(learner, episodes[0]).class_weights.shape == (WAYS, WIDTH)


def task_of(learner: Learner, episode: LabelledEpisode, tasks: LabelledTasks) -> ClassificationTask:
    return tasks.single(learner.model, episode, learner.model.tower(episode.items), learner.entry.adapts, training=True)


def test_support_batches_take_the_classes_in_turn_and_losses_smooth_labels() -> None:
    """Class after class, a batch would hold one class, and the step would make of every text one of it."""
    learner, episode = learner_of("anil"), episode_of(shots=3)

    def loss(size: int | None, step: int, smoothing: float = 0.0) -> Tensor:
        task = task_of(learner, episode, LabelledTasks(size, smoothing))
        return task.support_loss(task.start(), step)

    singles = torch.stack([loss(1, step) for step in range(9)])
    logits = adapt(learner_of("protonet"), episode).logits(learner.model.tower(episode.items[episode.support]))
    each = functional.cross_entropy(logits, episode.support_labels, reduction="none")
    torch.testing.assert_close(singles, each.view(WAYS, 3).T.flatten())
    torch.testing.assert_close(loss(4, 2), singles[[8, 0, 1, 2]].mean())
    torch.testing.assert_close(loss(None, 5), singles.mean())
    smoothed = functional.cross_entropy(logits, episode.support_labels, label_smoothing=0.1)
    torch.testing.assert_close(loss(None, 0, 0.1), smoothed)


@pytest.mark.parametrize("name", EVERY)
def test_a_meta_batch_has_the_mean_of_its_episodes_gradients_side_by_side_or_one_by_one(name: str) -> None:
    """Shared texts encoded once must not mix episodes up; padding of those with fewer distinct texts weighs nothing."""
    short = episode_of(3)
    twice = short.query.clone()
    twice[0] = twice[1]  # two rows of one text: an item less
    kept, places = torch.unique(torch.cat([short.support, twice, short.names]), return_inverse=True)
    support, query, names = places.split([6, 6, 3])
    short = replace(short, items=short.items[kept], support=support, query=query, names=names)
    episodes = [episode_of(1), episode_of(2, shots=1, ways=4), short, episode_of(4)]
    single = [gradients(learner_of(name), [episode]) for episode in episodes]
    for most in (1, 4):
        together = gradients(learner_of(name, vmap_episodes=most), episodes)
        assert set(together) == set(single[0])
        for parameter, gradient in together.items():
            mean = sum(one[parameter] for one in single) / 4
            torch.testing.assert_close(gradient, mean, rtol=1e-9, atol=1e-12, msg=parameter)


@pytest.mark.parametrize("name", EVERY)
def test_predictions_depend_on_no_order_and_on_no_label_of_the_query(name: str) -> None:
    """The one leak that makes any classifier look good, and the order of a file that should not matter."""
    learner, episode = learner_of(name), episode_of()
    found = query_logits(learner, episode)
    blind = replace(episode, query_labels=(episode.query_labels + 1) % WAYS, classes=episode.classes.flip(0))
    torch.testing.assert_close(query_logits(learner, blind), found, rtol=0, atol=0)
    order, classes = torch.tensor([4, 0, 5, 2, 1, 3]), torch.tensor([2, 0, 1])
    shuffled = replace(
        episode,
        support=episode.support[order],
        support_labels=classes.argsort()[episode.support_labels[order]],
        names=episode.names[classes],
    )
    torch.testing.assert_close(query_logits(learner, shuffled), found[:, classes])
    assert not torch.allclose(query_logits(learner, replace(shuffled, support=episode.support)), found[:, classes])


@pytest.fixture(scope="module")
def encoder_learner(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Learner]:
    """Learners whose tower trains the top layers of a real (tiny) encoder over its cached hidden states."""
    folder: Path = tmp_path_factory.mktemp("encoder")
    encoder = load(TeacherSection(encoder=str(tiny_encoder(folder / "model"))))
    cache = ActivationCache(folder / "cache", encoder, tokenize(encoder.tokenizer, planted_texts(), 16))
    cache.build({0, 1, 2})

    def made(name: str, layers: int = 2, vmap_episodes: int | None = None, **more: Any) -> Learner:
        torch.manual_seed(0)
        hyperparameters = values(name, trainable_layers=layers, **more)
        entry = hyperparameters.entry
        joint = None
        if entry.baseline:
            codes = torch.arange(TRAINING).repeat_interleave(PER_CLASS)
            joint = JointClasses.at_means(cache.pooled()[: len(codes)], codes)
        head = ClassifierHead(encoder.width, 0.1, entry, joint, reads_names=hyperparameters.reads_names)
        tower = build_tower(encoder, cache, layers, "eager", dropout=hyperparameters.dropout or 0.0)
        return classification_learner(Classifier(tower, head), hyperparameters, vmap_episodes=vmap_episodes)

    return made


# Of the planted set, where a class is a scene: the first are for training.
TRAINING, PER_CLASS = 48, 12


def planted_texts() -> list[str]:
    """Texts of each scene in turn: two of their five words tell the class, the others are drawn; then its name."""
    rng = np.random.default_rng(0)
    texts = [
        f"{rng.choice(COLOURS)} {rng.choice(BRANDS)} {rng.choice(SIZES)} {scene}"
        for scene in SCENES
        for _ in range(PER_CLASS)
    ]
    return [*texts, *SCENES]


def planted(seed: int, training: bool = True, ways: int = 4, shots: int = 2, queries: int = 3) -> LabelledEpisode:
    rng = np.random.default_rng(seed)
    classes = rng.choice(TRAINING if training else len(SCENES) - TRAINING, ways, replace=False)
    classes = torch.from_numpy(classes + (0 if training else TRAINING))
    rows = torch.from_numpy(np.stack([rng.permutation(PER_CLASS)[: shots + queries] for _ in range(ways)]))
    codes = classes[:, None] * PER_CLASS + rows
    codes = torch.cat([codes, len(SCENES) * PER_CLASS + classes[:, None]], dim=1)
    items, places = torch.unique(codes, return_inverse=True)
    return LabelledEpisode(
        name=f"episode {seed}",
        classes=classes,
        items=items,
        support=places[:, :shots].flatten(),
        support_labels=torch.arange(ways).repeat_interleave(shots),
        query=places[:, shots:-1].flatten(),
        query_labels=torch.arange(ways).repeat_interleave(queries),
        names=places[:, -1],
    )


@pytest.mark.parametrize("name", EVERY)
def test_layers_that_train_receive_the_same_gradients_side_by_side_and_one_by_one(
    encoder_learner: Callable[..., Learner], name: str
) -> None:
    """A tower called without a graph trains as well as a frozen one; padding in attention trains something else."""
    episodes = [planted(seed) for seed in range(3)]
    with full_precision():
        alone, together = (gradients(encoder_learner(name, vmap_episodes=most), episodes) for most in (1, 3))
    # The key's bias shifts all of a row's attention logits alike: its true gradient is zero.
    moving = {n for n in alone if n.startswith("tower.") and not n.endswith("key.bias")}
    assert len(moving) == 2 * 15
    assert all(float(alone[parameter].abs().max()) > 0 for parameter in moving)
    assert set(alone) == set(together)
    for parameter, gradient in alone.items():
        torch.testing.assert_close(together[parameter], gradient, rtol=2e-3, atol=2e-5, msg=parameter)


def test_mamls_gradient_of_the_layers_is_that_of_the_loss_after_adapting_them(
    encoder_learner: Callable[..., Learner],
) -> None:
    """First order alone, or a path around the prototypes, trains too: the directional derivative tells."""
    episodes = [planted(seed) for seed in range(2)]
    slopes = {}
    with full_precision():
        for name in ("maml", "fomaml"):
            learner = encoder_learner(name)
            layers = {n: g for n, g in gradients(learner, episodes).items() if n.startswith("tower.")}
            length = torch.stack([gradient.square().sum() for gradient in layers.values()]).sum().sqrt()
            losses = []
            for step in (1e-2, -2e-2):
                with torch.no_grad():
                    for parameter, gradient in layers.items():
                        learner.model.get_parameter(parameter).add_(step / length * gradient)
                losses.append(outer_loss(learner, episodes))
            slopes[name] = (losses[0] - losses[1]) / 2e-2 / float(length)
    assert slopes["maml"] == pytest.approx(1, abs=0.01)
    assert abs(slopes["fomaml"] - 1) > 0.03


def test_adapted_layers_encode_the_query_and_other_texts_and_given_vectors_are_the_start(
    encoder_learner: Callable[..., Learner],
) -> None:
    """Vectors of the unadapted tower under adapted class weights are of another space."""
    episode = planted(0, training=False)
    with full_precision():
        maml, anil = (adapt(encoder_learner(name), episode) for name in ("maml", "anil"))
        with torch.no_grad():
            own = encoder_learner("anil").model.tower(episode.items)
        assert not torch.allclose(maml.query_vectors, own[episode.query], atol=1e-3)
        torch.testing.assert_close(maml.encode(episode.items[episode.query]), maml.query_vectors)
        torch.testing.assert_close(anil.query_vectors, own[episode.query])
        torch.testing.assert_close(anil.encode(episode.items), own)
        assert not maml.query_vectors.requires_grad
        assert not anil.encode(episode.items).requires_grad


def accuracy(learner: Learner) -> float:
    episodes = [planted(seed, training=False) for seed in range(1000, 1020)]
    with full_precision():
        return float(
            torch.cat([(query_logits(learner, e).argmax(1) == e.query_labels).double() for e in episodes]).mean()
        )


@pytest.mark.parametrize("name", EVERY)
def test_every_learner_improves_on_classes_that_it_has_not_seen(
    encoder_learner: Callable[..., Learner], name: str
) -> None:
    """The sum of all parts: each can be right, and a sign, a schedule or a frozen weight still starve it."""
    rates = {"outer_lr": 3e-3, "encoder_lr": 1e-2, "meta_batch_size": 4}
    learner = encoder_learner(name, layers=1, class_names="ignore", **rates)
    before = accuracy(learner)
    Trainer(learner, [planted(seed) for seed in range(40)], 15, seed=0).train_to(15)
    after = accuracy(learner)
    assert after > before + 0.05


def test_training_is_a_function_of_the_seed(encoder_learner: Callable[..., Learner]) -> None:
    """Dropout or a draw from the global generator would make every resumed trial another one."""
    weights = []
    for _ in range(2):
        learner = encoder_learner("maml", dropout=0.1, encoder_lr=1e-3, meta_batch_size=2)
        torch.manual_seed(len(weights))
        Trainer(learner, [planted(seed) for seed in range(8)], 2, seed=3).train_to(2)
        weights.append(dict(learner.model.named_parameters()))
    torch.testing.assert_close(weights[0], weights[1], rtol=0, atol=0)
