"""What an evaluation found, as it is stored, exported, printed and reported: one model for each thing.

`model_validate` reads what `to_json` wrote. Loads nothing heavy, for those who only show figures.
"""

from __future__ import annotations

import math
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from studies.config.protocol_section import SplitBy
from studies.evaluation.intervals import Interval


def _finite(value: Any) -> Any:
    """Return None for NaN and infinity, which JSON does not hold."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


# A number that may be undefined.
Figure = Annotated[float | None, BeforeValidator(_finite)]
# A quantity for each number of shots K.
ByShots = dict[int, Interval | None]
# Hyperparameters by name.
Settings = dict[str, bool | int | float | str | None]


class Figures(BaseModel):
    """Base of all models of figures: immutable, without unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    def to_json(self) -> dict[str, Any]:
        """Return the figures as values of JSON, under the names that scripts read."""
        return self.model_dump(mode="json", by_alias=True)


def misfit(error: ValidationError) -> str:
    """Return the first thing that does not fit a model, and where."""
    first = error.errors()[0]
    return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"


class Confusion(Figures):
    """How many queries of a class were given another."""

    label: str
    predicted: str
    queries: int


class ClassFigures(Figures):
    """A class: its queries, and how many of them it is predicted for, over these."""

    queries: int
    recall: float


class PooledFigures(Figures):
    """What a classifier predicts for the queries of all episodes together.

    Attributes:
        calibration_error: Expected calibration error (Guo et al. 2017), in 15 bins.
        coverage: By an accuracy, the largest share of the queries, the most confident ones, that reaches it.
        classes: Each class that has a query, by its name.
        confusions: The most frequent wrong predictions, the most frequent first.
    """

    calibration_error: float
    coverage: dict[float, float]
    classes: dict[str, ClassFigures]
    confusions: tuple[Confusion, ...]


class SystemFigures(Figures):
    """The figures of one system, with intervals over scenes; None where no scene has the figure.

    Attributes:
        kind: "baseline", "teacher", "direct transfer", "fine-tuning", "start of the search", "student",
            "untrained" or "labels alone".
        recall: See the metrics of the task, such as `studies.evaluation.metrics.SceneMetrics`.
        metrics: The task's other metrics, by name.
        over_reference: Difference of recall from the reference, paired by scene.
        scene_recalls: Recall of each scene.
        by_shots: Recall with the same queries under supports of several sizes.
        pooled: Figures over all queries together; None where the task has none.
    """

    kind: str
    recall: Interval
    metrics: dict[str, Interval | None]
    over_reference: Interval
    scene_recalls: dict[str, Figure]
    by_shots: ByShots
    pooled: PooledFigures | None = None

    def metric(self, name: str) -> Interval | None:
        """Return the interval of a metric, by its name, of "recall" or of "over_reference"."""
        known = {"recall": self.recall, "over_reference": self.over_reference}
        return known[name] if name in known else self.metrics[name]


class LeftOut(Figures):
    """A number of shots that the curve leaves out, and why."""

    shots: int
    reason: str


class Curve(Figures):
    """What the figures by shots cover: the numbers of shots, the scenes, and what is left out."""

    shots: tuple[int, ...]
    scenes: int
    left_out: tuple[LeftOut, ...]


class SceneFacts(Figures):
    """A scene: its candidates, its queries, and the cosine of its mean text vector to the nearest training scene."""

    candidates: int
    queries: int
    nearest: Figure


class AdaptationFacts(Figures):
    """What an encoder was adapted on, before a search.

    Attributes:
        encoder: Name of the pretrained one.
        sha256: Digest of its weights.
        objectives: What it was trained with.
        steps: Updates of all of these together.
        texts: Number of texts that were read.
        interactions: Number of interactions that pairs were drawn from; 0 where no objective reads them.
        labelled: Number of labelled texts whose labels were read; 0 where no objective reads them.
        losses: By objective its mean loss in the first and in the last tenth of its steps.
        seconds: What the training took.
    """

    encoder: str
    sha256: str
    objectives: tuple[str, ...]
    steps: int
    texts: int
    interactions: int
    labelled: int
    losses: dict[str, tuple[float, float]]
    seconds: float


class DataFacts(Figures):
    """The data of a study: how many there are of what, and the UTC dates of the first and the last of them.

    Attributes:
        source: Where they come from.
        split_by: How scenes are split; None where they are not split by time.
        counts: How many there are of what.
        first_day: UTC date of the first; None where the data have no times.
        last_day: UTC date of the last.
        fingerprint: Of the data.
    """

    source: str = ""
    split_by: SplitBy | None = None
    counts: dict[str, int]
    first_day: str | None = Field(default=None, validation_alias="from", serialization_alias="from")
    last_day: str | None = Field(default=None, validation_alias="until", serialization_alias="until")
    fingerprint: str


class SystemsEvaluation(Figures):
    """Several systems on the same episodes.

    Attributes:
        task: The study's.
        kind: Which of the task's protocols it has; "" where the task has one.
        metric: The name of the recall, such as "recall@10".
        reference: The name of the baseline that every system is compared with.
        part: Whose scenes: "validation" or "test".
        shots: Size of a support.
        scenes: Number of scenes with an episode.
        queries: Number of queries.
        query_counts: Of these, how many are of each kind.
        systems: The figures of each system, by its name.
        curve: What the figures by shots cover.
        scene_facts: Each scene, by its name.
        data: The data.
        adaptation: What the encoder was adapted on before the search; None where it was not.
    """

    task: str
    kind: str = ""
    metric: str
    reference: str
    part: str
    shots: int
    scenes: int
    queries: int
    query_counts: dict[str, int]
    systems: dict[str, SystemFigures]
    curve: Curve
    scene_facts: dict[str, SceneFacts]
    data: DataFacts
    adaptation: AdaptationFacts | None = None
