"""`[distill]` and its space: how the winners' student is built, what pulls it towards them, and how long.

Imports nothing heavy; `distill/objective.py` runs what this describes.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, PositiveInt, field_validator, model_validator

from studies.config.search_domains import Domain, Numbers, Parameters, Range, Section, Words, check_domain, values_of

Objective = Literal["recall", "latency", "size"]

# What each parameter of `[distill.space]` may be.
STUDENT: Parameters = {
    "layers": Numbers(int, 1, True),
    "width": Numbers(int, 0, True),
    "vocabulary": Words(("catalogue", "full")),
    "spelling": Numbers(float, 0, True),
    "init": Words(("alternate", "first", "last")),
    "teachers": Numbers(int, 1, True),
    "batch_size": Numbers(int, 1, True),
    "lr": Numbers(float, 0, False),
    "embedding": Numbers(float, 0, True),
    "hidden": Numbers(float, 0, True),
    "relational": Numbers(float, 0, True),
    "listwise": Numbers(float, 0, True),
    "margin": Numbers(float, 0, True),
    "hard": Numbers(float, 0, True),
    "temperature": Numbers(float, 0, False),
}
# Weights of losses: those that read texts, and those that rank episodes beside them.
TEXT_LOSSES = ("embedding", "hidden", "relational")
RANK_LOSSES = ("listwise", "margin", "hard")

# The domains of what `[distill.space]` leaves out (docs/search-space.md says why). The weights' ranges bring the terms
# to one order of magnitude: 1 − cosine of a matched student is near 0.05, a cross-entropy over candidates near 4.
DEFAULT_STUDENT_SPACE: dict[str, Domain] = {
    "layers": 2,
    "width": 0,
    "vocabulary": "catalogue",
    "spelling": 0.3,
    "init": ["alternate", "first", "last"],
    "teachers": [1, 2],
    "batch_size": [32, 64],
    "lr": Range(low=1e-4, high=2e-3, log=True),
    "embedding": Range(low=1.0, high=100.0, log=True),
    "hidden": [0.0, 0.1, 1.0],
    "relational": [0.0, 1.0, 10.0],
    "listwise": Range(low=0.1, high=10.0, log=True),
    "margin": 0.0,
    "hard": Range(low=0.03, high=3.0, log=True),
    "temperature": Range(low=0.5, high=8.0, log=True),
}
assert DEFAULT_STUDENT_SPACE.keys() == STUDENT.keys()


_RECALL: list[Objective] = ["recall"]


class DistillSection(Section):
    """The distillation: a search of its own, over students and what pulls them towards their teachers.

    A trial trains `embed_steps` on texts, then `rank_steps` on rankings with the texts still beside them. `objectives`
    is what the search is for: validation recall alone, whose trials are pruned by it, or with "latency" and "size" the
    Pareto front of them; of the front, the fastest student that keeps `retain` of its best recall is taken.
    """

    trials: PositiveInt = 4
    embed_steps: PositiveInt = 300
    rank_steps: Annotated[int, Field(ge=0)] = 60
    objectives: Annotated[list[Objective], Field(min_length=1)] = _RECALL
    retain: Annotated[int | float, Field(gt=0, le=1)] = 0.99
    seed: Annotated[int, Field(ge=0)] = 0
    space: dict[str, Domain] = DEFAULT_STUDENT_SPACE

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
            check_domain(name, domain, STUDENT)
        return DEFAULT_STUDENT_SPACE | space

    @model_validator(mode="after")
    def _pulls(self) -> DistillSection:
        def off(names: tuple[str, ...]) -> bool:
            return all(min(values_of(self.space[name])) == 0 for name in names)

        if off(TEXT_LOSSES):
            raise ValueError(
                "space: embedding, hidden and relational may all be 0, which leaves texts nothing to be trained by; "
                "give one of them a domain above 0"
            )
        if self.rank_steps and off(RANK_LOSSES):
            raise ValueError(
                "space: listwise, margin and hard may all be 0, which leaves rankings nothing to be trained by; give "
                "one of them a domain above 0, or set rank_steps = 0"
            )
        return self

    @property
    def steps(self) -> int:
        """Steps of a trial."""
        return self.embed_steps + self.rank_steps

    @property
    def teachers(self) -> int:
        """How many winners a student may have as teachers."""
        return int(max(values_of(self.space["teachers"])))

    @property
    def rungs(self) -> list[int]:
        """Steps after which a student is evaluated, and compared with the others: the last one ends a trial."""
        return sorted({max(1, self.embed_steps // 3), self.embed_steps, self.steps})

    def applies(self, name: str, values: dict[str, Any]) -> bool:
        """Whether a student with these values, so far, has any use for a parameter: the search skips others."""
        if name in RANK_LOSSES:
            return self.rank_steps > 0
        if name == "spelling":
            return bool(values.get("vocabulary") != "full")
        if name == "hidden":  # between layers, of which one has none
            return bool(values.get("layers") != 1)
        return name != "temperature" or (self.rank_steps > 0 and values.get("listwise") != 0)
