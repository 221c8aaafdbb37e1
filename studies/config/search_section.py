"""`[search]` of the study file: budgets, sampler, and each parameter's domain, for all learners or for one."""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated, Any, Literal

from pydantic import Field, PositiveInt, field_validator, model_validator

from studies.config.hyperparameters import ENCODER, INNER_LOOP, applies
from studies.config.search_domains import (
    Domain,
    Parameters,
    Range,
    Section,
    Words,
    check_domain,
    holds,
    middle,
    nearest,
    show_domain,
    values_of,
)
from studies.config.search_parameters import SEARCHED, default_space
from studies.learners.registry import LEARNERS


class SearchSection(Section):
    """The search: its budgets, its sampler, and the space. It ends when the first of its budgets is spent.

    Attributes:
        trials: Trials in all, exact for any number of workers.
        cost_minutes: Minutes of measured training and evaluation, all trials together; then trials pause at a rung.
        timeout_minutes: Minutes of wall clock since the launch; then trials pause at their next rung.
        target_recall: Validation recall at which the search ends, once a finished trial reaches it.
        patience: Trials that start after the best one and end without improving on it, until the search ends.
        retries: How often a trial whose worker was lost is resumed from the same rung before it fails.
        start: Configurations to try early, complete or partial, such as `[{ learner = "anil", inner_lr = 0.1 }]`.
        warm_start: Name of an older study: its best configuration is tried first, then those of which its trials
            promise most. Without it, classification of new classes starts from recorded trials.
        warm_start_trials: How many of them, as far as the budget goes; of recorded trials at most half of it.
        workers: Workers of a launch. Without it, one per core.
        worker_cpus: CPUs that a worker reserves on a Ray cluster. Without it, 1.
        worker_gpus: GPUs that a worker reserves on a Ray cluster. Without it, 0.
        episodes_at_once: Most episodes in one vectorised pass, faster where they are small. Without it, by their size.
        sampler: Optuna's sampler.
        seed: Seed of the sampler and of every trial's first weights.
        space: Domains of the parameters for all learners; those that are left out keep their defaults.
        learners: Domains of the parameters for one learner, by its name; they take precedence.
    """

    trials: PositiveInt = 30
    cost_minutes: Annotated[int | float, Field(gt=0)] | None = None
    timeout_minutes: Annotated[int | float, Field(gt=0)] | None = None
    target_recall: Annotated[int | float, Field(gt=0, le=1)] | None = None
    patience: PositiveInt | None = None
    retries: Annotated[int, Field(ge=0)] = 3
    start: list[dict[str, Any]] = Field(default_factory=list)
    warm_start: str | None = None
    warm_start_trials: Annotated[int, Field(ge=0)] = 10
    workers: PositiveInt | None = None
    worker_cpus: PositiveInt | None = None
    worker_gpus: Annotated[int | float, Field(ge=0)] | None = None
    episodes_at_once: PositiveInt | None = None
    sampler: Literal["tpe", "random", "grid", "gp"] = "tpe"
    seed: Annotated[int, Field(ge=0)] = 0
    space: dict[str, Domain] = Field(default_factory=dict)  # completed below
    learners: dict[str, dict[str, Domain]] = Field(default_factory=dict)

    @classmethod
    def parameters(cls) -> Parameters:
        """Return what each parameter of the space may be; a task with other parameters has a section of its own."""
        return SEARCHED

    @classmethod
    def known_learners(cls) -> Collection[str]:
        """Return the names of the task's learners."""
        learners = cls.parameters()["learner"]
        assert isinstance(learners, Words)
        return learners.words

    @classmethod
    def default_space(cls) -> dict[str, Domain]:
        """Return every parameter with the domain that it has unless the study file names another."""
        return default_space()

    @field_validator("space")
    @classmethod
    def _complete(cls, space: dict[str, Domain]) -> dict[str, Domain]:
        if not space:
            raise ValueError("the search space is empty; name at least one parameter, or leave [search.space] out")
        for name, domain in space.items():
            check_domain(name, domain, cls.parameters())
        full = cls.default_space() | space
        learners, layers = values_of(full["learner"]), max(values_of(full["trainable_layers"]))
        used = {name for name in full if any(applies(name, learner, layers) for learner in learners)}
        if idle := [name for name in space if name not in used]:
            why = (
                "trainable_layers is 0"
                if idle[0] in ENCODER
                else f"no learner of {', '.join(learners)} takes gradient steps"
            )
            raise ValueError(f"{idle[0]} has no use where {why}; leave it out")
        return {name: domain for name, domain in full.items() if name in used}

    @field_validator("learners")
    @classmethod
    def _of_learners(cls, learners: dict[str, dict[str, Domain]]) -> dict[str, dict[str, Domain]]:
        for learner, domains in learners.items():
            if learner not in cls.known_learners():
                raise ValueError(f"unknown learner {learner!r}{nearest(learner, cls.known_learners())}")
            for name, domain in domains.items():
                check_domain(name, domain, cls.parameters())
                if name in ("learner", "trainable_layers"):
                    raise ValueError(f"{name} cannot differ by learner; set it in [search.space]")
                if name in INNER_LOOP and not LEARNERS[learner].takes_gradient_steps:
                    raise ValueError(f"{name} has no use to {learner}, which takes no gradient steps; leave it out")
        return learners

    @model_validator(mode="before")
    @classmethod
    def _defaults_of_learners(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values  # refused below
        # `[search.space]` sets a parameter for all learners and so replaces their own defaults of it.
        space, given = values.get("space", {}), values.get("learners", {})
        if not (isinstance(space, dict) and isinstance(given, dict)):
            return values  # refused below
        merged = dict(given)
        for learner in cls.known_learners():
            domains = LEARNERS[learner].domains
            own = {name: domain for name, domain in domains.items() if name not in space}
            if own and isinstance(given.get(learner, {}), dict):
                merged[learner] = own | given.get(learner, {})
        return {"space": cls.default_space()} | values | {"learners": merged}

    def domain(self, name: str, learner: str) -> tuple[str, Domain]:
        """Return the name of a learner's parameter in the study, and its domain."""
        own = self.learners.get(learner, {})
        return (f"{learner}.{name}", own[name]) if name in own else (name, self.space[name])

    @model_validator(mode="after")
    def _starts_in_space(self) -> SearchSection:
        if self.sampler == "grid" and (self.start or self.warm_start):
            raise ValueError('sampler "grid" tries every point of the space; leave start and warm_start out')
        for number, values in enumerate(self.start):
            try:
                self.point(values)
            except ValueError as error:
                raise ValueError(f"start, entry {number + 1}: {error}") from error
        return self

    def point(self, values: dict[str, Any]) -> dict[str, Any]:
        """Return a complete or partial configuration by the names of its parameters in the study.

        Raises:
            ValueError: A parameter is unknown or does not apply, or its value lies outside the space.
        """
        learners = values_of(self.space["learner"])
        learner = values.get("learner", learners[0] if len(learners) == 1 else None)
        if learner is None:
            raise ValueError(f"name the learner, one of {', '.join(learners)}")
        layers = values.get("trainable_layers", max(values_of(self.space["trainable_layers"])))
        named = {}
        for name, value in values.items():
            if name not in self.space:
                raise ValueError(f"unknown parameter {name!r}{nearest(name, self.space)}")
            shared = name in ("learner", "trainable_layers")
            known, domain = (name, self.space[name]) if shared else self.domain(name, learner)
            if not holds(domain, value):
                raise ValueError(f"{known} = {value!r} lies outside its domain, {show_domain(domain)}")
            if not applies(name, learner, layers):
                raise ValueError(f"{name} has no use to {learner} with {layers} trainable layers; leave it out")
            named[known] = value
        return named

    def default_point(self) -> dict[str, Any]:
        """Return the default configuration, the middle of the space, by the names of its parameters in the study."""
        learner, layers = middle(self.space["learner"]), middle(self.space["trainable_layers"])
        point = {"learner": learner, "trainable_layers": layers}
        for name in self.space:
            if name not in point and applies(name, learner, layers):
                known, domain = self.domain(name, learner)
                point[known] = middle(domain)
        return point

    @model_validator(mode="after")
    def _grid_is_finite(self) -> SearchSection:
        if self.sampler == "grid":
            every = [*self.space.items(), *(item for own in self.learners.values() for item in own.items())]
            for name, domain in every:
                if isinstance(domain, Range) and not domain.whole:
                    raise ValueError(
                        f'sampler "grid" needs a list or whole-number range for every parameter; '
                        f"{name} is a real range: list its values, such as {name} = [{domain.low}, {domain.high}]"
                    )
        return self
