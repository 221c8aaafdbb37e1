"""`[protocol]` of a classification study: the definition of episodes and splits."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveInt

from studies.config.protocol_section import ProtocolSection


class ClassificationProtocol(ProtocolSection):
    """N-way K-shot episodes of new classes; docs/protocol.md explains each key.

    `shots` and `queries` count texts of one class. `split` and `seed` divide the classes, by a digest of their names.

    Attributes:
        classes: "new": the classes of validation and test are not those of training.
        ways: N, the classes of an episode.
        queries: Texts of each class that are classified.
        episodes: Episodes of validation, and of test.
        train_episodes: Distinct episodes of training.
        min_rows: Fewest texts of a class, if more than the `shots` + `queries` that an episode needs.
        min_groups: Fewest groups of a class; a text without a group is one of its own.
    """

    classes: Literal["new"] = "new"
    ways: Annotated[int, Field(ge=2)] = 10
    report_shots: list[PositiveInt] = Field(default_factory=lambda: [1, 5, 20], min_length=1)
    queries: PositiveInt = 5
    episodes: Annotated[int, Field(ge=2)] = 200
    train_episodes: PositiveInt = 1000
    min_rows: PositiveInt | None = None
    min_groups: Annotated[int, Field(ge=2)] = 2

    @property
    def metric(self) -> str:
        """Return the name of the recall that trials are compared by."""
        return "macro recall"

    @property
    def words(self) -> str:
        """Return the protocol in short, for a reader."""
        return (
            f"{self.ways} ways, {self.shots} shots, {self.queries} queries of each class, {self.episodes} episodes, "
            f"split {' / '.join(map(str, self.split))} of the classes"
        )
