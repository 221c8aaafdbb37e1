"""`[protocol]` of a classification study: the definition of episodes and splits."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, PositiveInt, model_validator

from studies.config.protocol_section import ProtocolSection

# Keys of new classes alone; what known classes have no use for without scenes; and keys of known classes alone.
_OF_WAYS = ("ways", "min_groups")
_OF_SCENES = ("shots", "report_shots", "queries", "episodes", "min_scene_rows")
_OF_KNOWN = ("min_scene_rows", "split_by", "batch", "sampling")


class ClassificationProtocol(ProtocolSection):
    """N-way K-shot episodes of new classes, one set of classes, or its scenes; docs/protocol.md explains each key.

    `shots` and `queries` count texts of one class. `split` and `seed` divide the classes, by a digest of their names;
    where classes are known, the scenes, or without scenes the labelled rows.

    Attributes:
        classes: "new": the classes of validation and test are not those of training. "known": one set of classes, whose
            scenes are divided, or without scenes its rows.
        scenes: Whether known classes are adapted to in new scenes; follows from the data, and need not be written.
        ways: N, the classes of an episode.
        queries: Texts of each class that are classified; in a scene of known classes, so many on average.
        episodes: Episodes of validation, and of test.
        train_episodes: Distinct episodes of training.
        min_rows: Fewest texts of a class, if more than the `shots` + `queries` that an episode needs.
        min_groups: Fewest groups of a class; a text without a group is one of its own.
        min_scene_rows: Fewest labelled rows of a scene of known classes.
        split_by: How the rows of known classes are divided: by "time", the latest for the test, or by "hash", each
            class alike and each group whole; "auto" takes the former where the data have times. Of scenes: by when they
            start, or by a hash of their names; "auto" takes the former where most of them are short-lived.
        batch: Texts of known classes that a training episode classifies; a meta-update reads `meta_batch_size` of them.
        sampling: How these are drawn: "balanced", of all classes alike, as macro recall counts them; or "natural", in
            the classes' proportions, for a higher accuracy.
    """

    classes: Literal["new", "known"] = "new"
    scenes: bool = False
    ways: Annotated[int, Field(ge=2)] = 10
    report_shots: list[PositiveInt] = Field(default_factory=lambda: [1, 5, 20], min_length=1)
    queries: PositiveInt = 5
    episodes: Annotated[int, Field(ge=2)] = 200
    train_episodes: PositiveInt = 1000
    min_rows: PositiveInt | None = None
    min_groups: Annotated[int, Field(ge=2)] = 2
    min_scene_rows: PositiveInt | None = None
    split_by: Literal["auto", "time", "hash"] = "auto"
    batch: PositiveInt = 16
    sampling: Literal["balanced", "natural"] = "balanced"

    @model_validator(mode="after")
    def _effective(self) -> ClassificationProtocol:
        if self.scenes and not self.known:
            raise ValueError('scenes = true is for classes = "known"; leave it out')
        for name, remedy in self.ineffective().items():
            if getattr(self, name) != type(self).model_fields[name].get_default(call_default_factory=True):
                raise ValueError(f"{name} has no use where {remedy}; leave it out")
        return self

    def ineffective(self) -> dict[str, str]:
        """Return the keys that have no effect, each with the condition under which it has none."""
        if not self.known:
            return dict.fromkeys(_OF_KNOWN, 'classes = "new"')
        if self.scenes:
            return dict.fromkeys(_OF_WAYS, 'classes = "known"')
        return dict.fromkeys((*_OF_WAYS, *_OF_SCENES), 'classes = "known" and the data have no scenes')

    @property
    def effective(self) -> dict[str, Any]:
        """Return the values of the keys that have an effect, as a study file has them."""
        values = self.model_dump(mode="json", exclude={*self.ineffective(), "scenes"})
        return {name: value for name, value in values.items() if value is not None}

    @property
    def metric(self) -> str:
        """Return the name of the recall that trials are compared by."""
        return "macro recall"

    @property
    def kind(self) -> str:
        """Return which of the task's protocols this is."""
        return "new classes" if not self.known else "scenes of known classes" if self.scenes else "known classes"

    @property
    def known(self) -> bool:
        """Return whether training, validation and test have the same classes."""
        return self.classes == "known"

    @property
    def support_shots(self) -> int:
        """Return the labelled texts of each class in a support; 0 for known classes without scenes: it has none."""
        return self.shots if self.scenes or not self.known else 0

    @property
    def words(self) -> str:
        """Return the protocol in short, for a reader."""
        parts, by = " / ".join(map(str, self.split)), "" if self.split_by == "auto" else f" by {self.split_by}"
        if self.scenes:
            return f"known classes in new scenes, {self.shots} shots, split {parts} of the scenes{by}"
        if self.known:
            return f"known classes, split {parts} of the labelled texts{by}"
        return (
            f"{self.ways} ways, {self.shots} shots, {self.queries} queries of each class, {self.episodes} episodes, "
            f"split {parts} of the classes"
        )
