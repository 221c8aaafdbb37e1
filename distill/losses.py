"""What a student is pulled towards: its teachers' vectors and their rankings.

The third pull, what users really took, is the teachers' own training loss: `studies.learners.scene_task.ranking_loss`.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional


def embedding_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """1 − cosine, averaged over texts: half the squared distance of unit vectors (Reimers & Gurevych 2020, eq. 1).

    Args:
        student: (B, D) vectors of length 1.
        teacher: (B, D) vectors of length 1 of the same texts.

    Returns:
        A scalar in [0, 2].
    """
    return 1 - (student * teacher).sum(1).mean()


def listwise_kl(teacher: Tensor, student: Tensor, temperature: float) -> Tensor:
    """T² · KL(teacher ‖ student) of the rankings softened by T, averaged over queries (Hinton et al. 2015, section 2).

    The candidates of a query are the classes, as in ListNet (Cao et al. 2007, eq. 3). T² keeps the gradient's size
    the same at any temperature. Written with logarithms throughout, so that a vanishing probability gives no NaN.

    Args:
        teacher: (Q, C) scores; constants added to a row change nothing.
        student: (Q, C) scores.
        temperature: T > 0.

    Returns:
        A scalar ≥ 0; 0 where both rank alike.
    """
    target = (teacher / temperature).log_softmax(1)
    output = (student / temperature).log_softmax(1)
    return temperature**2 * functional.kl_div(output, target, reduction="batchmean", log_target=True)
