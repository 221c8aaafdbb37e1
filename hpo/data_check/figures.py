"""What a check of data found, as it is printed and as `--json` has it."""

from __future__ import annotations

from pydantic import Field

from studies.config.protocol_section import SplitBy
from studies.data.scene_minima import SmallScenes
from studies.episodes.audit import Finding
from studies.evaluation.figures import Figures


class Bin(Figures):
    """The scenes with at least `low` and fewer than `high` interactions."""

    low: int = Field(validation_alias="from", serialization_alias="from")
    high: int = Field(validation_alias="to", serialization_alias="to")
    scenes: int


class PartFacts(Figures):
    """The scenes of a part, its first and last day, its episodes, and the scenes that have none.

    Attributes:
        without_history: Queries of users without a history, of all queries.
    """

    scenes: int
    first_day: str = Field(validation_alias="from", serialization_alias="from")
    last_day: str = Field(validation_alias="until", serialization_alias="until")
    episodes: int
    queries: int
    without_history: int
    without_episodes: tuple[str, ...]


class Minimum(Figures):
    """The least value of a scene, and whether the study file or the protocol sets it."""

    value: int
    derived: bool


class DataCheck(Figures):
    """What is in a study's data.

    Attributes:
        source: Of the data.
        rows_read: Rows of the log.
        notes: What the reader noted.
        dropped: Dropped rows by reason.
        minima: What a scene must reach, by the key of [data].
        small_scenes: The scenes that miss a minimum, by the minima that they miss, and the values that would keep them.
        split_by: How scenes are split: "hash" or "opening"; None where no study is possible.
        split_by_auto: Whether the data decided it (`protocol.split_by = "auto"`).
        warnings: What is probably wrong with the data, and what makes a study weak, though not impossible.
        parts: Each part, as far as it was sampled.
        audit: The findings of the leakage audit; none where it did not come to its end.
        error: Why no study is possible; None where one is.
        interactions: Those left, as for everything after it.
        users: Distinct users.
        items: Distinct texts.
        scenes: Distinct scenes.
        sparsity: Share of the pairs of user and item that do not occur.
        interactions_per_scene: Minimum, quartiles and maximum.
        histogram: Scenes by their number of interactions, in bins that double.
        first_day: UTC date of the first interaction.
        last_day: UTC date of the last one.
        fingerprint: Of the data.
    """

    source: str
    rows_read: int
    notes: tuple[str, ...]
    dropped: dict[str, int]
    minima: dict[str, Minimum]
    small_scenes: tuple[SmallScenes, ...]
    warnings: tuple[str, ...]
    split_by: SplitBy | None
    split_by_auto: bool
    parts: dict[str, PartFacts]
    audit: tuple[Finding, ...]
    error: str | None
    interactions: int
    users: int
    items: int
    scenes: int
    sparsity: float
    interactions_per_scene: tuple[int, ...]
    histogram: tuple[Bin, ...]
    first_day: str | None = Field(validation_alias="from", serialization_alias="from")
    last_day: str | None = Field(validation_alias="until", serialization_alias="until")
    fingerprint: str


class ClassBin(Figures):
    """The classes with at least `low` and fewer than `high` rows."""

    low: int = Field(validation_alias="from", serialization_alias="from")
    high: int = Field(validation_alias="to", serialization_alias="to")
    classes: int


class LabelledPart(Figures):
    """The classes of a part, their rows, its episodes, and the classes that have none."""

    classes: int
    rows: int
    episodes: int
    queries: int
    without_episodes: tuple[str, ...]


class SceneRows(Figures):
    """A scene that known classes are adapted to: its part, its rows by class, and whether it has an episode."""

    scene: str
    part: str
    rows: dict[str, int]
    episode: bool


class LabelledCheck(Figures):
    """What is in the data of a classification study.

    Attributes:
        source: Of the data.
        rows_read: Rows before any was dropped.
        notes: What the reader noted.
        dropped: Dropped rows by reason.
        warnings: What is probably wrong with the data.
        parts: Each part, as far as it was sampled.
        audit: The findings of the leakage audit; none where it did not come to its end.
        error: Why no study is possible; None where one is.
        texts: Distinct texts.
        classes: Classes of the study.
        labelled: Rows with the label of one of them.
        unlabelled: Rows without.
        groups: Distinct groups.
        scenes: Distinct scenes.
        by_scene: Each scene, where scenes are what is divided.
        rows_per_class: Minimum, quartiles and maximum.
        histogram: Classes by their number of rows, in bins that double.
        largest: The largest classes, with their rows.
        fingerprint: Of the data.
    """

    source: str
    rows_read: int
    notes: tuple[str, ...]
    dropped: dict[str, int]
    warnings: tuple[str, ...]
    parts: dict[str, LabelledPart]
    audit: tuple[Finding, ...]
    error: str | None
    texts: int
    classes: int
    labelled: int
    unlabelled: int
    groups: int
    scenes: int
    by_scene: tuple[SceneRows, ...] = ()
    rows_per_class: tuple[int, ...]
    histogram: tuple[ClassBin, ...]
    largest: dict[str, int]
    fingerprint: str
