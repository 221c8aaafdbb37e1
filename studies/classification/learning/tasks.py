"""Labelled episodes become tasks of the classifier: `studies.learners.base.Tasks` for classification."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from studies.classification.episode import LabelledEpisode
from studies.classification.learning.classification_task import ClassificationTask
from studies.classification.learning.head import Classifier, ClassifierHead, JointClasses
from studies.config.hyperparameters import Hyperparameters
from studies.learners.base import Learner, build
from studies.learners.registry import AdaptedParameters
from studies.learners.tasks.meta_batch import MetaBatchVectors, side_by_side
from studies.learners.tasks.token_states import encoder_adapts, largest_state
from studies.model.device import device

# What cosines are divided by at the start where the hyperparameters do not say.
TEMPERATURE = 0.1


@dataclass(frozen=True)
class LabelledTasks:
    """Makes tasks of labelled episodes.

    Attributes:
        support_batch_size: Texts of the support per inner step; all of them if left out.
        label_smoothing: Part of each label that all classes share.
        vmap_episodes: Most episodes side by side; by their size if left out.
    """

    support_batch_size: int | None = None
    label_smoothing: float = 0.0
    vmap_episodes: int | None = None

    def single(
        self, model: Classifier, episode: LabelledEpisode, vectors: Tensor, adapts: AdaptedParameters, *, training: bool
    ) -> ClassificationTask:
        """Return the task of one episode whose items' vectors are known; arguments as of `Tasks.single`."""
        return self._task(model, [episode], lambda: vectors, adapts, training=training)

    @contextmanager
    def meta_batch(
        self, model: Classifier, episodes: Sequence[LabelledEpisode], adapts: AdaptedParameters
    ) -> Iterator[Iterator[ClassificationTask]]:
        """Yield the tasks of a meta-batch, each distinct text of which is encoded once; as of `Tasks.meta_batch`."""
        vectors = MetaBatchVectors(model.tower, [episode.items for episode in episodes])

        def task(group: Sequence[int]) -> ClassificationTask:
            return self._task(
                model, [episodes[number] for number in group], partial(vectors.of, group), adapts, training=True
            )

        shapes = [(e.ways, len(e.support), len(e.query)) for e in episodes]
        sizes = [_elements(episode, model, adapts) for episode in episodes]
        yield map(task, side_by_side(shapes, sizes, self.vmap_episodes))
        vectors.backward()

    def _task(
        self,
        model: Classifier,
        episodes: Sequence[LabelledEpisode],
        unadapted: Callable[[], Tensor],
        adapts: AdaptedParameters,
        *,
        training: bool,
    ) -> ClassificationTask:
        return ClassificationTask(
            model=model,
            episodes=episodes,
            unadapted=unadapted,
            adapts=adapts,
            training=training,
            support_batch_size=self.support_batch_size,
            label_smoothing=self.label_smoothing,
        )


def classification_learner(
    model: Classifier,
    hyperparameters: Hyperparameters,
    *,
    vmap_episodes: int | None = None,
    micro_batch_size: int | None = None,
) -> Learner:
    """Return the learner of a classifier that the hyperparameters name.

    Args:
        model: The model to train.
        hyperparameters: The trial's values.
        vmap_episodes: Most episodes of a meta-batch side by side; by their size if left out.
        micro_batch_size: Most episodes of a meta-batch held together; all if left out.
    """
    smoothing = hyperparameters.label_smoothing or 0.0
    tasks = LabelledTasks(hyperparameters.support_batch_size, smoothing, vmap_episodes)
    return build(model, hyperparameters, tasks, micro_batch_size=micro_batch_size)


def classifier_head(width: int, hyperparameters: Hyperparameters, labels: tuple[str, ...] = ()) -> ClassifierHead:
    """Return a head for a learner with these values, over vectors of a width.

    Args:
        width: Size of a vector.
        hyperparameters: The learner's.
        labels: Names of the known classes; without them, training classes are no part of the head.
    """
    known = JointClasses(torch.arange(len(labels)), torch.ones(len(labels), width), labels) if labels else None
    temperature = hyperparameters.temperature or TEMPERATURE
    return ClassifierHead(width, temperature, hyperparameters.entry, known, reads_names=hyperparameters.reads_names)


def head_learner(head: ClassifierHead, learner: Hyperparameters) -> Learner:
    """Return a learner, on the device, that adapts a head as a teacher with these values does, but no encoder layer."""
    values = Hyperparameters(**learner.to_dict() | {"trainable_layers": 0})
    head.train_only(values.head)  # the student's inner loop moves what the teacher's moves
    return classification_learner(Classifier(nn.Identity(), head).to(device()), values)


def _elements(episode: LabelledEpisode, model: Classifier, adapts: AdaptedParameters) -> int:
    """Return the elements in an operation's largest tensor: hidden states where the encoder adapts, else vectors."""
    if encoder_adapts(model, adapts):
        return largest_state(model, episode.items)
    return max(len(episode.support), len(episode.query)) * model.head.project.in_features
