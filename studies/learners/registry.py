"""The registry of learners: one entry each, which says all that the rest of the code needs to know of a learner.

Search space, memory formula, attention kernel, reports and plots read the entries; the study file is validated against
them before torch is loaded, so nothing here imports it: `LearnerEntry.load` imports the class. A new learner is a file
with its class, and an entry here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, Literal, get_args

from studies.config.search_domains import Domain, Range

# What is predicted.
TaskName = Literal["ranking", "classification"]
TASK_NAMES: tuple[TaskName, ...] = get_args(TaskName)

# What adapts to a support: nothing; the last layer (in ranking the preference and the weights of the score's features);
# all of the head; all that trains, the encoder's top layers included. With any of the last three, what belongs to one
# episode alone adapts too: a bias per candidate, or the weights and the bias of each class.
AdaptedParameters = Literal["nothing", "score_weights", "head", "everything"]


@dataclass(frozen=True)
class LearnerEntry:
    """One learner.

    Attributes:
        name: Its name in study files, databases and reports.
        implementation: Its class, as "module:class".
        adapts: What its inner loop adapts.
        paper: Where the algorithm comes from.
        second_order: Whether the outer gradient runs through the inner steps' gradients.
        learns_inner_rates: Whether the outer loop learns an inner rate for every weight that adapts.
        descends_on_query: Whether the inner steps of meta-training descend on the query's loss as well.
        baseline: Whether its outer loop never sees an adapted weight: the fine-tuning baseline that meta-learners are
            compared with.
        closed_form: Whether it solves for the weights of the classes instead of taking gradient steps.
        tasks: What it can learn to predict.
        domains: Domains of search parameters that suit it better than those of the other learners.
    """

    name: str
    implementation: str
    adapts: AdaptedParameters
    paper: str
    second_order: bool = False
    learns_inner_rates: bool = False
    descends_on_query: bool = False
    baseline: bool = False
    closed_form: bool = False
    tasks: tuple[TaskName, ...] = TASK_NAMES
    domains: Mapping[str, Domain] = field(default_factory=dict)

    @property
    def takes_gradient_steps(self) -> bool:
        """Whether it has an inner loop, and so a use for the inner loop's hyperparameters."""
        return self.adapts != "nothing"

    @property
    def adapts_encoder(self) -> bool:
        """Whether its inner loop moves the encoder's layers that train, where there are any."""
        return self.adapts == "everything"

    @property
    def needs_eager_attention(self) -> bool:
        """Whether it takes second derivatives through the encoder, which SDPA does not have."""
        return self.second_order and self.adapts_encoder

    def load(self) -> type[Any]:
        """Import and return its class, a `studies.learners.base.Learner`."""
        module, name = self.implementation.split(":")
        found: type[Any] = getattr(import_module(module), name)
        return found


# Every step of a second-order learner is held in memory until the outer gradient is taken.
_FEW_STEPS = {"inner_steps": Range(low=1, high=5)}

LEARNERS: dict[str, LearnerEntry] = {
    entry.name: entry
    for entry in (
        LearnerEntry(
            name="protonet",
            implementation="studies.learners.protonet:ProtoNet",
            adapts="nothing",
            paper="Snell et al. 2017; Vinyals et al. 2016",
        ),
        LearnerEntry(
            name="anil",
            implementation="studies.learners.anil:ANIL",
            adapts="score_weights",
            paper="Raghu et al. 2020",
            second_order=True,
        ),
        LearnerEntry(
            name="fomaml",
            implementation="studies.learners.fomaml:FOMAML",
            adapts="everything",
            paper="Finn et al. 2017; Nichol et al. 2018",
        ),
        LearnerEntry(
            name="maml",
            implementation="studies.learners.maml:MAML",
            adapts="everything",
            paper="Finn et al. 2017",
            second_order=True,
            domains=_FEW_STEPS,
        ),
        LearnerEntry(
            name="metasgd",
            implementation="studies.learners.metasgd:MetaSGD",
            adapts="head",
            paper="Li et al. 2017",
            second_order=True,
            learns_inner_rates=True,
            domains=_FEW_STEPS,
        ),
        LearnerEntry(
            name="reptile",
            implementation="studies.learners.reptile:Reptile",
            adapts="everything",
            paper="Nichol et al. 2018",
            descends_on_query=True,
        ),
        LearnerEntry(
            name="finetune",
            implementation="studies.learners.finetune:FineTune",
            adapts="everything",
            paper="Chen et al. 2019",
            baseline=True,
            # Nothing was trained for the steps to be few.
            domains={"inner_steps": Range(low=1, high=30, log=True)},
        ),
        LearnerEntry(
            name="ridge",
            implementation="studies.learners.ridge:Ridge",
            adapts="nothing",
            paper="Bertinetto et al. 2019",
            closed_form=True,
            tasks=("classification",),
        ),
    )
}


class LearnersOf(Mapping[str, LearnerEntry]):
    """The learners of one task: a view of `LEARNERS`.

    Args:
        task: The task.
    """

    def __init__(self, task: TaskName) -> None:
        self._task = task

    def __getitem__(self, name: str) -> LearnerEntry:
        """Return a learner's entry."""
        if self._task not in LEARNERS[name].tasks:
            raise KeyError(name)
        return LEARNERS[name]

    def __iter__(self) -> Iterator[str]:
        """Yield the names, in the registry's order."""
        return (name for name, entry in LEARNERS.items() if self._task in entry.tasks)

    def __len__(self) -> int:
        """Return how many there are."""
        return sum(1 for _ in self)


RANKING_LEARNERS = LearnersOf("ranking")
CLASSIFICATION_LEARNERS = LearnersOf("classification")
