"""`[protocol]` of the study file: what the protocols of all tasks have, and ranking's own."""

from __future__ import annotations

import itertools
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, PositiveInt, ValidationInfo, field_validator, model_validator

from studies.config.search_domains import Section

Fraction = Annotated[float, Field(gt=0, lt=1)]
SplitBy = Literal["hash", "opening"]


class ProtocolSection(Section):
    """The definition of episodes, splits and metrics, which docs/protocol.md explains.

    A task's own protocol adds the keys of its episodes, and names its metric.

    Attributes:
        shots: Interactions in a support; in classification labelled texts of each class.
        report_shots: Sizes of the support in the report's curve.
        split: Fractions of the scenes, or classes, in meta-training, validation and test.
        seed: Seed of the split and of the sampling of episodes.
    """

    shots: PositiveInt = 5
    report_shots: list[PositiveInt] = Field(default_factory=lambda: [1, 5, 10, 20], min_length=1)
    split: tuple[Fraction, Fraction, Fraction] = (0.6, 0.2, 0.2)
    seed: Annotated[int, Field(ge=0)] = 0

    @property
    def metric(self) -> str:
        """Return the name of the recall that trials are compared by."""
        return "recall"

    @property
    def kind(self) -> str:
        """Return which of the task's protocols this is; "" where it has one."""
        return ""

    @property
    def effective(self) -> dict[str, Any]:
        """Return the values of the keys that have an effect, as a study file has them."""
        return self.model_dump(mode="json")

    @property
    def support_shots(self) -> int:
        """Return the size of an episode's support; 0 where episodes have none."""
        return self.shots

    @property
    def words(self) -> str:
        """Return the protocol in short, for a reader."""
        return f"{self.shots} shots, split {' / '.join(map(str, self.split))}"

    @field_validator("split", "timeline", mode="before", check_fields=False)
    @classmethod
    def _list_to_tuple(cls, value: Any, info: ValidationInfo) -> Any:
        count = len(get_args(cls.model_fields[str(info.field_name)].annotation))
        if isinstance(value, list) and len(value) != count:
            raise ValueError(f"takes {count} fractions, got {value}")
        return tuple(value) if isinstance(value, list) else value

    @field_validator("report_shots")
    @classmethod
    def _shots_increase(cls, shots: list[int]) -> list[int]:
        return increasing("report_shots", shots)

    @model_validator(mode="after")
    def _split_adds_up(self) -> ProtocolSection:
        if abs(sum(self.split) - 1) > 1e-6:
            raise ValueError(f"split must add up to 1, got {list(self.split)} = {sum(self.split):g}")
        return self


class RankingProtocol(ProtocolSection):
    """The protocol of ranking: openings of scenes in time, and every item of the scene ranked.

    Attributes:
        k: K of recall@K.
        candidates: What is ranked: the items of the scene, or "all" items of the shop, where each can be recommended in
            every scene.
        products: Whether systems may read how many products share a text.
        repeat: Whether a user's later interactions with an item count; "exclude" where users take an item only once.
        window_days: Length of an episode, from its opening on, in days.
        history: Most items of a user's history.
        queries: Most queries of an evaluation episode, of one user each.
        min_queries: Fewest queries of an episode; an opening with fewer gives none. A mean over scenes counts each
            alike, so one with a single query is mostly chance.
        openings: Openings of a scene in evaluation; each gives an episode.
        train_queries: Most queries of a training episode.
        train_openings: Openings of a training scene.
        split_by: How scenes are split: by a "hash" of their names, or by their "opening", the time of their first
            interaction, for scenes that live a few weeks; "auto" takes the latter where most scenes do.
        timeline: Where the periods of validation and test begin, as fractions of the log's time; not used where scenes
            are split by their opening.
    """

    k: PositiveInt = 10
    candidates: Literal["scene", "all"] = "scene"
    products: bool = True
    repeat: Literal["allow", "exclude"] = "allow"
    window_days: Annotated[int | float, Field(gt=0)] = 28
    history: PositiveInt = 32
    queries: PositiveInt = 64
    min_queries: PositiveInt = 1
    openings: Annotated[int, Field(ge=5)] = 5
    train_queries: PositiveInt = 24
    train_openings: PositiveInt = 12
    split_by: Literal["auto", SplitBy] = "auto"
    timeline: tuple[Fraction, Fraction] = (0.6, 0.8)

    @property
    def metric(self) -> str:
        """Return the name of the recall that trials are compared by."""
        return f"recall@{self.k}"

    @property
    def words(self) -> str:
        """Return the protocol in short, for a reader."""
        return (
            f"{self.shots} shots, window {self.window_days:g} days, candidates of the "
            f"{'scene' if self.candidates == 'scene' else 'shop'}, split {' / '.join(map(str, self.split))} of the "
            f"scenes by {self.split_by}, timeline {' / '.join(map(str, self.timeline))}"
        )

    @model_validator(mode="after")
    def _queries_fit(self) -> RankingProtocol:
        if self.min_queries > (most := min(self.queries, self.train_queries)):
            raise ValueError(
                f"min_queries = {self.min_queries} is more than an episode has: queries = {self.queries}, "
                f"train_queries = {self.train_queries}; set it to {most} or less"
            )
        return self

    @model_validator(mode="after")
    def _timeline_increases(self) -> RankingProtocol:
        if self.timeline[0] >= self.timeline[1]:
            raise ValueError(f"timeline must increase, got {list(self.timeline)}")
        return self


def increasing(name: str, values: list[int]) -> list[int]:
    """Return the values of a key that must be strictly increasing.

    Raises:
        ValueError: They are not.
    """
    if any(later <= earlier for earlier, later in itertools.pairwise(values)):
        raise ValueError(f"{name} must increase, got {values}")
    return values
