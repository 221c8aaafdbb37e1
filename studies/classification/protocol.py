"""`[protocol]` of a classification study: the definition of episodes and splits."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveInt

from studies.config.protocol_section import ProtocolSection


class ClassificationProtocol(ProtocolSection):
    """N-way K-shot episodes of new classes, or one set of classes; docs/protocol.md explains each key.

    `shots` and `queries` count texts of one class. `split` and `seed` divide the classes, by a digest of their names;
    where classes are known, the labelled rows.

    Attributes:
        classes: "new": the classes of validation and test are not those of training. "known": one set of classes, whose
            rows are divided.
        ways: N, the classes of an episode.
        queries: Texts of each class that are classified.
        episodes: Episodes of validation, and of test.
        train_episodes: Distinct episodes of training.
        min_rows: Fewest texts of a class, if more than the `shots` + `queries` that an episode needs.
        min_groups: Fewest groups of a class; a text without a group is one of its own.
        split_by: How the rows of known classes are divided: by "time", the latest for the test, or by "hash", each
            class alike and each group whole; "auto" takes the former where the data have times.
        batch: Texts of known classes in a training episode; a meta-update reads `meta_batch_size` of them.
    """

    classes: Literal["new", "known"] = "new"
    ways: Annotated[int, Field(ge=2)] = 10
    report_shots: list[PositiveInt] = Field(default_factory=lambda: [1, 5, 20], min_length=1)
    queries: PositiveInt = 5
    episodes: Annotated[int, Field(ge=2)] = 200
    train_episodes: PositiveInt = 1000
    min_rows: PositiveInt | None = None
    min_groups: Annotated[int, Field(ge=2)] = 2
    split_by: Literal["auto", "time", "hash"] = "auto"
    batch: PositiveInt = 16

    @property
    def metric(self) -> str:
        """Return the name of the recall that trials are compared by."""
        return "macro recall"

    @property
    def known(self) -> bool:
        """Return whether training, validation and test have the same classes."""
        return self.classes == "known"

    @property
    def support_shots(self) -> int:
        """Return the labelled texts of each class in a support; 0 where classes are known: there is no support."""
        return 0 if self.known else self.shots

    @property
    def words(self) -> str:
        """Return the protocol in short, for a reader."""
        if self.known:
            by = "" if self.split_by == "auto" else f" by {self.split_by}"
            return f"known classes, split {' / '.join(map(str, self.split))} of the labelled texts{by}"
        return (
            f"{self.ways} ways, {self.shots} shots, {self.queries} queries of each class, {self.episodes} episodes, "
            f"split {' / '.join(map(str, self.split))} of the classes"
        )
