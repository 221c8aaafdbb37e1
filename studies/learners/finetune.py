"""The fine-tuning baseline: train on all training scenes jointly, then take a few gradient steps on the support.

Source: what Chen et al., "A Closer Look at Few-shot Classification" (ICLR 2019), section 3.2, call the baseline. The
outer loop never sees an adapted weight: it minimises the task's joint loss. For ranking that is the query's loss of the
model as it is, whose score depends on the support's counts and similarities as every learner's does; for classification
it is the paper's own, over all training classes. The number and the rate of the steps are searched as for any other
learner.
"""

from __future__ import annotations

from torch import Tensor

from studies.learners.base import Learner
from studies.learners.inner_loop import Task
from studies.learners.registry import LEARNERS


class FineTune(Learner):
    """Fine-tunes the whole head, candidates' biases or classes' weights, and the top layers that train."""

    entry = LEARNERS["finetune"]

    def meta_loss(self, task: Task) -> Tensor:
        """Return the loss without adaptation: no meta-learning."""
        return task.joint_loss()
