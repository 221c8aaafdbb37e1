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


class SystemFigures(Figures):
    """The figures of one system, with intervals over scenes; None where no scene has the figure.

    Attributes:
        kind: "baseline", "teacher", "direct transfer", "fine-tuning" or "student".
        recall: See `studies.evaluation.metrics.SceneMetrics`, as for the metrics after it.
        over_popularity: Difference of recall from support popularity, paired by scene.
        scene_recalls: Recall of each scene.
        by_shots: Recall with the same queries under supports of several sizes.
    """

    kind: str
    recall: Interval
    ndcg: Interval | None
    mrr: Interval | None
    hit_rate: Interval | None
    precision: Interval | None
    accuracy: Interval | None
    new_item_recall: Interval | None
    cold_user_recall: Interval | None
    coverage: Interval | None
    popularity: Interval | None
    over_popularity: Interval
    scene_recalls: dict[str, Figure]
    by_shots: ByShots

    def metric(self, name: str) -> Interval | None:
        """Return the interval of a metric, by its name in `SceneMetrics`, or of "over_popularity"."""
        found: Interval | None = getattr(self, name)
        return found


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


class DataFacts(Figures):
    """The data of a study, with the UTC dates of its first and last interaction, and how its scenes are split."""

    source: str
    split_by: SplitBy
    interactions: int
    items: int
    scenes: int
    users: int
    first_day: str = Field(validation_alias="from", serialization_alias="from")
    last_day: str = Field(validation_alias="until", serialization_alias="until")
    fingerprint: str


class SystemsEvaluation(Figures):
    """Several systems on the same episodes.

    Attributes:
        part: Whose scenes: "validation" or "test".
        k: Length of the lists.
        shots: Interactions in a support.
        scenes: Number of scenes with an episode.
        queries: Number of queries.
        new_item_queries: Of these, those with a relevant item that the support does not hold.
        cold_user_queries: Of these, those whose user has no history.
        systems: The figures of each system, by its name.
        curve: What the figures by shots cover.
        scene_facts: Each scene, by its name.
        data: The data.
    """

    part: str
    k: int
    shots: int
    scenes: int
    queries: int
    new_item_queries: int
    cold_user_queries: int
    systems: dict[str, SystemFigures]
    curve: Curve
    scene_facts: dict[str, SceneFacts]
    data: DataFacts
