"""What a protocol makes of data: the split, the episodes of each part, and the audit of both.

A study and `hpo data check` use the same plan, so that the check sees what the study would do.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import numpy as np

from studies.classification.data.dataset import LabelledTexts
from studies.classification.episode import LabelledEpisode
from studies.classification.known.audit import audit_batches, audit_rows
from studies.classification.known.batches import evaluation_batch, training_batches
from studies.classification.known.row_split import RowSplit, split_rows
from studies.classification.protocol import ClassificationProtocol
from studies.classification.sampling.audit import audit_labelled, audit_labelled_episodes
from studies.classification.sampling.sampler import LabelledSampler
from studies.classification.sampling.split import ClassSplit, split_classes
from studies.classification.scenes.audit import audit_scene_episodes, audit_scenes
from studies.classification.scenes.sampler import SceneSampler
from studies.classification.scenes.split import split_scenes
from studies.data.dataset import Ints
from studies.episodes.audit import Finding
from studies.episodes.split import SplitName
from studies.progress import Progress

# Classes from which on there is a note.
MANY = 1000


class Plan(ABC):
    """The split of data under a protocol, and its episodes.

    Attributes:
        split: The classes of each part.
        notes: What the split leaves out, as whole sentences.
    """

    split: ClassSplit
    notes: tuple[str, ...] = ()

    def __init__(self, data: LabelledTexts, protocol: ClassificationProtocol) -> None:
        self.data, self.protocol = data, protocol

    @abstractmethod
    def rows(self, split_name: SplitName) -> Ints:
        """Return the numbers of the labelled rows of a part."""

    @abstractmethod
    def readable(self) -> Ints:
        """Return the texts that a student may read, without their labels: item codes, ascending."""

    @abstractmethod
    def sample(self, split_name: SplitName, draw: int, progress: Progress) -> list[LabelledEpisode]:
        """Return the episodes of a part, in a fixed order."""

    @abstractmethod
    def nested(
        self, split_name: SplitName, shots: Sequence[int], progress: Progress
    ) -> dict[int, list[LabelledEpisode]]:
        """Return episodes of a part with the same queries under supports of several sizes."""

    def scene_rows(self, split_name: SplitName) -> Mapping[str, Ints]:
        """Return the rows of each scene of a part, by its name, where scenes are what is divided; else nothing."""
        return {}

    @abstractmethod
    def audit(self) -> list[Finding]:
        """Return the findings that need no episodes."""

    @abstractmethod
    def audit_episodes(
        self, split_name: SplitName, episodes: Sequence[LabelledEpisode], progress: Progress
    ) -> list[Finding]:
        """Return the findings on the episodes of a part."""


class SampledPlan(Plan):
    """A plan whose episodes have a support, drawn by a sampler."""

    _sampler: LabelledSampler | SceneSampler

    def sample(self, split_name: SplitName, draw: int, progress: Progress) -> list[LabelledEpisode]:
        """Return the episodes of a draw."""
        return self._sampler.sample(split_name, draw, progress)

    def nested(
        self, split_name: SplitName, shots: Sequence[int], progress: Progress
    ) -> dict[int, list[LabelledEpisode]]:
        """Return nested episodes."""
        return self._sampler.nested(split_name, shots, progress)


class NewClasses(SampledPlan):
    """N-way K-shot episodes of classes that training has not seen."""

    def __init__(self, data: LabelledTexts, protocol: ClassificationProtocol) -> None:
        super().__init__(data, protocol)
        self.split = split_classes(data, protocol)
        self._sampler = LabelledSampler(data, self.split, protocol)

    def rows(self, split_name: SplitName) -> Ints:
        """Return the rows of the part's classes."""
        return np.flatnonzero(np.isin(self.data.label, self.split.classes[split_name]))

    def readable(self) -> Ints:
        """Return the texts of rows, and the names of training classes."""
        return np.union1d(self.data.text, self.data.names[self.split.classes["train"]])

    def audit(self) -> list[Finding]:
        """Return the findings on classes and texts."""
        return audit_labelled(self.data, self.split)

    def audit_episodes(
        self, split_name: SplitName, episodes: Sequence[LabelledEpisode], progress: Progress
    ) -> list[Finding]:
        """Return the findings on episodes."""
        return audit_labelled_episodes(self.data, self.split, split_name, episodes, progress)


class KnownClasses(Plan):
    """Batches of texts of classes that training, validation and test share."""

    def __init__(self, data: LabelledTexts, protocol: ClassificationProtocol) -> None:
        super().__init__(data, protocol)
        self.split = self.row_split = split_rows(data, protocol)
        self.notes = (*self.row_split.notes, *_many(len(data.labels)))

    def rows(self, split_name: SplitName) -> Ints:
        """Return the rows of the part."""
        return self.row_split.rows[split_name]

    def readable(self) -> Ints:
        """Return the texts of training and those without a label; of the latter, none from after training."""
        return _readable(self.data, self.row_split)

    def sample(self, split_name: SplitName, draw: int, progress: Progress) -> list[LabelledEpisode]:
        """Return the batches of training, or the one batch with every row of another part, whatever the draw."""
        if split_name == "train":
            return training_batches(self.data, self.row_split, self.protocol, progress)
        return [evaluation_batch(self.data, self.row_split, split_name)]

    def nested(
        self, split_name: SplitName, shots: Sequence[int], progress: Progress
    ) -> dict[int, list[LabelledEpisode]]:
        """Return nothing: there is no support."""
        return {}

    def audit(self) -> list[Finding]:
        """Return the findings on what the parts share."""
        return audit_rows(self.data, self.row_split)

    def audit_episodes(
        self, split_name: SplitName, episodes: Sequence[LabelledEpisode], progress: Progress
    ) -> list[Finding]:
        """Return the findings on batches."""
        return audit_batches(self.data, self.row_split, split_name, episodes)


class KnownScenes(SampledPlan):
    """Episodes of one scene each, of classes that training, validation and test share."""

    def __init__(self, data: LabelledTexts, protocol: ClassificationProtocol) -> None:
        super().__init__(data, protocol)
        self.split = self.scene_split = split_scenes(data, protocol)
        self._sampler = SceneSampler(data, self.scene_split, protocol)
        self.notes = (*self.scene_split.notes, *_many(len(data.labels)))

    def rows(self, split_name: SplitName) -> Ints:
        """Return the rows of the part."""
        return self.scene_split.rows[split_name]

    def readable(self) -> Ints:
        """Return the texts of training and those without a label; of the latter, none from after training."""
        return _readable(self.data, self.scene_split)

    def scene_rows(self, split_name: SplitName) -> Mapping[str, Ints]:
        """Return the rows of each scene of a part, by its name."""
        rows, scene = self.rows(split_name), self.data.scene
        return {self.data.scenes[code]: rows[scene[rows] == code] for code in self.scene_split.scenes[split_name]}

    def audit(self) -> list[Finding]:
        """Return the findings on what the parts share."""
        return audit_scenes(self.data, self.scene_split)

    def audit_episodes(
        self, split_name: SplitName, episodes: Sequence[LabelledEpisode], progress: Progress
    ) -> list[Finding]:
        """Return the findings on episodes."""
        return audit_scene_episodes(self.data, self.scene_split, split_name, episodes, progress)


def _readable(data: LabelledTexts, split: RowSplit) -> Ints:
    unlabelled = data.label < 0 if split.until is None else (data.label < 0) & (data.time < split.until)
    return np.unique(data.text[np.concatenate([split.rows["train"], np.flatnonzero(unlabelled)])])


def _many(classes: int) -> tuple[str, ...]:
    if classes < MANY:
        return ()
    return (
        f"{classes:,} classes are told apart by one layer; expect many errors, and consider to classify in two steps, "
        "such as departments first.",
    )


def plan(data: LabelledTexts, protocol: ClassificationProtocol) -> Plan:
    """Return the plan of a study.

    Raises:
        InputError: The data cannot be split as the protocol says.
    """
    if protocol.scenes:
        return KnownScenes(data, protocol)
    return KnownClasses(data, protocol) if protocol.known else NewClasses(data, protocol)
