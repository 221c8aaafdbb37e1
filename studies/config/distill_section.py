"""`[distill]` and its search space: which students are tried, how they train, and how the best is chosen.

Imports nothing heavy; `distill/objective.py` runs what this describes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, PositiveInt, field_validator, model_validator

from studies.config.distill_losses import LOSSES, WEIGHT, loss_settings, ranking_losses, text_losses
from studies.config.search_domains import (
    Domain,
    Numbers,
    Parameters,
    Range,
    Section,
    Words,
    check_domain,
    values_of,
)

Objective = Literal["recall", "latency", "size"]

# Two extensions reach nine times the steps; by doubling, three would reach eight.
EXTENSION = 3

# What each parameter of `[distill.space]` may be, but for those of the losses.
STUDENT: Parameters = {
    "layers": Numbers(int, 1, True),
    "width": Numbers(int, 0, True),
    "feed_forward": Numbers(int, 0, True),
    "vocabulary": Words(("catalogue", "full")),
    "spelling": Numbers(float, 0, True),
    "init": Words(("alternate", "first", "last")),
    "teachers": Numbers(int, 1, True),
    "batch_size": Numbers(int, 1, True),
    "lr": Numbers(float, 0, False),
}

# The domains of what `[distill.space]` leaves out.
DEFAULT_STUDENT: dict[str, Domain] = {
    "layers": 2,
    "width": 0,
    "feed_forward": 0,
    "vocabulary": "catalogue",
    "spelling": 0.3,
    "init": ["alternate", "first", "last"],
    "teachers": [1, 2],
    "batch_size": [32, 64],
    "lr": Range(low=1e-4, high=2e-3, log=True),
}
assert DEFAULT_STUDENT.keys() == STUDENT.keys()


def student_parameters() -> Parameters:
    """Return what each parameter of `[distill.space]` may be."""
    settings = {name: setting.allowed for name, setting in loss_settings().items()}
    return {**STUDENT, **dict.fromkeys(LOSSES, WEIGHT), **settings}


def default_student_space() -> dict[str, Domain]:
    """Return every parameter of `[distill.space]` with its default domain, in the order of their suggestion."""
    settings = {name: setting.domain for name, setting in loss_settings().items()}
    return DEFAULT_STUDENT | {name: loss.domain for name, loss in LOSSES.items()} | settings


_RECALL: list[Objective] = ["recall"]


class DistillSection(Section):
    """The distillation: a search of its own, over students and the losses that train them.

    Attributes:
        trials: Students to try.
        embed_steps: Steps of a student on texts.
        rank_steps: Steps of a student on rankings and texts together, after those on texts.
        extensions: How often the chosen student may be trained again, each time for three times the steps on texts: as
            long as it is surely below its teacher and each time was better than the one before.
        objectives: What is searched for: validation recall alone, by which students are pruned, or with "latency" and
            "size" the Pareto front of all.
        retain: Of the front, the fastest student is taken that keeps this fraction of the best one's recall.
        labels_alone: Whether the student is also trained without a teacher, for as many steps, to show what distilling
            adds.
        seed: Seed of the search and of the students' training.
        space: Domains of the students' parameters; those that are left out keep their defaults.
    """

    trials: PositiveInt = 4
    embed_steps: PositiveInt = 300
    rank_steps: Annotated[int, Field(ge=0)] = 60
    extensions: Annotated[int, Field(ge=0)] = 2
    objectives: Annotated[list[Objective], Field(min_length=1)] = _RECALL
    retain: Annotated[int | float, Field(gt=0, le=1)] = 0.99
    labels_alone: bool = True
    seed: Annotated[int, Field(ge=0)] = 0
    space: dict[str, Domain] = Field(default_factory=default_student_space)

    @field_validator("objectives")
    @classmethod
    def _recall_first(cls, objectives: list[Objective]) -> list[Objective]:
        if objectives[:1] != ["recall"] or len(set(objectives)) < len(objectives):
            raise ValueError(f'objectives start with "recall", each once, got {objectives}')
        return objectives

    @field_validator("space")
    @classmethod
    def _complete(cls, space: dict[str, Domain]) -> dict[str, Domain]:
        for name, domain in space.items():
            check_domain(name, domain, student_parameters())
        return default_student_space() | space

    @model_validator(mode="after")
    def _trained(self) -> DistillSection:
        def off(names: Sequence[str]) -> bool:
            return all(min(values_of(self.space[name])) == 0 for name in names)

        if off(texts := text_losses()):
            raise ValueError(
                f"space: {_listed(texts)} may all be 0, which leaves texts nothing to be trained by; "
                "give one of them a domain above 0"
            )
        if self.rank_steps and off(rankings := ranking_losses()):
            raise ValueError(
                f"space: {_listed(rankings)} may all be 0, which leaves rankings nothing to be trained by; give "
                "one of them a domain above 0, or set rank_steps = 0"
            )
        return self

    @property
    def steps(self) -> int:
        """Steps of a trial."""
        return self.embed_steps + self.rank_steps

    @property
    def teachers(self) -> int:
        """Most winners that a student has as teachers."""
        return int(max(values_of(self.space["teachers"])))

    @property
    def rungs(self) -> list[int]:
        """Steps after which a student is evaluated and compared with the others; the last one ends a trial."""
        texts = {max(1, self.embed_steps // 3), self.embed_steps} if self.embed_steps else set[int]()
        return sorted(texts | {self.steps})

    def of_steps(self, embed_steps: int | None) -> DistillSection:
        """Return the section with another number of steps on texts; its own where it is None."""
        return self if embed_steps is None else self.model_copy(update={"embed_steps": embed_steps})

    @property
    def without_teacher(self) -> DistillSection:
        """The same number of steps, all of them on labels."""
        return self.model_copy(update={"embed_steps": 0, "rank_steps": self.steps})

    def applies(self, name: str, values: dict[str, Any]) -> bool:
        """Return whether a parameter matters to a student with these values so far; the search skips others."""
        if name in LOSSES:
            # A student of one layer has no states between layers.
            on = {"vectors": True, "states": values.get("layers") != 1, "rankings": self.rank_steps > 0}
            return on[LOSSES[name].reads]
        for loss, row in LOSSES.items():
            if name in row.settings:
                return self.applies(loss, values) and values.get(loss) != 0
        return name != "spelling" or values.get("vocabulary") != "full"


def _listed(names: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
