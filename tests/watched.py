"""A searched study to look at, with simulated training: several learners, pruned and finished trials, checkpoints."""

import torch

from storage.files import checkpoints
from studies.config.hyperparameters import Hyperparameters
from studies.config.spec import StudySpec, parse_spec
from tests.contract.test_hpo_search import run, simulated

RUNGS = (10, 30, 90)


def spec(name: str = "shop|<b>one", trials: int = 24) -> StudySpec:
    """A study of two learners, some of whose trials are kept against their rank."""
    return parse_spec(
        {
            "name": name,
            "data": {"source": "completejourney"},
            "search": {
                "trials": trials,
                "sampler": "random",
                "space": {"learner": ["protonet", "anil"], "trainable_layers": 0},
            },
            "pruner": {"rungs": list(RUNGS), "eta": 3, "keep": 0.4},
            "finalists": {"count": 4},
        }
    )


def recall_of(values: Hyperparameters, rung: int) -> float:
    """Return the recall of a simulated training: the learning rate decides, and the learner a little."""
    return min(0.9, 0.3 + values.outer_lr * 20 + rung * 0.01 + (values.learner == "anil") * 0.02)


def searched(database, study: StudySpec) -> list:
    """Runs the search; returns its trials."""

    def train(values, folder, report):
        def kept(reached):
            if reached.step == RUNGS[-1]:
                checkpoints.save(
                    folder, reached.step, {"weight": torch.full((4,), reached.recall)}, {"step": reached.step}
                )
            report(reached)

        return simulated(values, folder, kept, recall_of)

    return run(database, study, train)
