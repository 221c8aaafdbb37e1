"""`[teacher.adapt]`: how the encoder is trained on the shop's own data before the search.

One class per task, since a log and labels are not found in the same study. Imports nothing heavy.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field, PositiveInt, field_validator, model_validator

from studies.adaptation.registry import OBJECTIVES, Reads
from studies.config.search_domains import Section, nearest

# Why a study lacks what an objective reads.
_MISSING: dict[Reads, str] = {
    "log": "a log of interactions, which a study of classification does not have",
    "labels": "labels of classes, which a study of ranking does not have",
}

# The best of each task, as far as it was measured (docs/benchmarks.md).
_TEXTS: list[str] = ["contrastive"]
_LOG: list[str] = ["cooccurrence"]
_LABELS: list[str] = ["labels"]


class AdaptSection(Section):
    """The shop's own training of the encoder, done once before the search; without the table it is not done.

    Attributes:
        objectives: What it is trained with, in turns: step after step, each on a batch of its own. "mlm": whole words
            are hidden and predicted. "contrastive": two readings of a text with other dropout are nearest to each
            other.
        steps: Updates of all objectives together.
        lr: Peak learning rate of AdamW.
        batch_size: Texts, or pairs of texts, of a step.
        dropout: Dropout of the encoder's layers while it is trained.
        temperature: What cosines are divided by. Not of "mlm".
        mask: Fraction of a text's words that are hidden, at least one. Of "mlm" alone.
        seed: Seed of what each step reads, and of dropout.
    """

    # What a study of the task has.
    data: ClassVar[tuple[Reads, ...]] = ("texts",)

    objectives: Annotated[list[str], Field(min_length=1)] = _TEXTS
    steps: PositiveInt = 100
    lr: Annotated[int | float, Field(gt=0)] = 1e-4
    batch_size: Annotated[int, Field(ge=2)] = 64
    dropout: Annotated[int | float, Field(ge=0, lt=1)] = 0.1
    temperature: Annotated[int | float, Field(gt=0)] = 0.05
    mask: Annotated[int | float, Field(gt=0, lt=1)] = 0.15
    seed: Annotated[int, Field(ge=0)] = 0

    @classmethod
    def known(cls) -> list[str]:
        """Return the names of the objectives that a study of the task can have."""
        return [name for name, entry in OBJECTIVES.items() if entry.reads in cls.data]

    @field_validator("objectives")
    @classmethod
    def _known(cls, objectives: list[str]) -> list[str]:
        for name in objectives:
            if name not in OBJECTIVES:
                raise ValueError(f"unknown objective {name!r}{nearest(name, cls.known())}")
            if (reads := OBJECTIVES[name].reads) not in cls.data:
                raise ValueError(f"{name!r} needs {_MISSING[reads]}; accepted: {', '.join(cls.known())}")
        if len(set(objectives)) < len(objectives):
            raise ValueError(f"each objective once, got {objectives}")
        return objectives

    @model_validator(mode="after")
    def _effective(self) -> AdaptSection:
        for key, field in type(self).model_fields.items():
            readers = [name for name in self.known() if key in OBJECTIVES[name].keys]
            if readers and not set(readers) & set(self.objectives) and getattr(self, key) != field.default:
                raise ValueError(
                    f"{key} = {getattr(self, key)} has no effect with objectives = {self.objectives}: leave it out, "
                    f"or add {' or '.join(map(repr, readers))}"
                )
        if self.dropout == 0 and "contrastive" in self.objectives:
            raise ValueError(
                'dropout = 0 makes both readings of a text equal, of which "contrastive" learns nothing; set a '
                "dropout above 0, or leave that objective out"
            )
        return self


class RankingAdapt(AdaptSection):
    """The shop's own training of the encoder, done once before the search; without the table it is not done.

    Attributes:
        objectives: What it is trained with, in turns: step after step, each on a batch of its own. "mlm": whole words
            are hidden and predicted. "contrastive": two readings of a text with other dropout are nearest to each
            other. "cooccurrence": texts that a user took near each other are nearest, among the others of the batch.
        within_days: Most days between two interactions of a user that make a pair. Of "cooccurrence" alone.
        same_scene: Fraction of a batch whose texts are of one scene, which are harder to tell apart. Of "cooccurrence"
            alone.
    """

    data: ClassVar[tuple[Reads, ...]] = ("texts", "log")

    objectives: Annotated[list[str], Field(min_length=1)] = _LOG
    within_days: Annotated[int | float, Field(ge=0)] = 1.0
    same_scene: Annotated[int | float, Field(ge=0, le=1)] = 0.5


class ClassificationAdapt(AdaptSection):
    """The shop's own training of the encoder, done once before the search; without the table it is not done.

    Attributes:
        objectives: What it is trained with, in turns: step after step, each on a batch of its own. "mlm": whole words
            are hidden and predicted. "contrastive": two readings of a text with other dropout are nearest to each
            other. "labels": texts of a training class are nearest, those of other groups where there are groups.
        per_class: Texts of a class in a batch. Of "labels" alone.
    """

    data: ClassVar[tuple[Reads, ...]] = ("texts", "labels")

    objectives: Annotated[list[str], Field(min_length=1)] = _LABELS
    # Of six settings that `hpo adapt --trials` tried on Complete Journey's products (docs/benchmarks.md).
    steps: PositiveInt = 200
    lr: Annotated[int | float, Field(gt=0)] = 1.4e-5
    per_class: Annotated[int, Field(ge=2)] = 4
