"""Listwise loss: the student's ranking of the candidates is the teachers'."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from distill.losses.batches import RankingBatch


def listwise_kl(batch: RankingBatch, temperature: float) -> Tensor:
    """Return T² · KL(teacher ‖ student) of rankings softened by T, averaged over queries (Hinton et al. 2015, sec. 2).

    The candidates of a query are the classes, as in ListNet (Cao et al. 2007, eq. 3). T² keeps the gradient's size
    the same at any temperature. Written with logarithms throughout, so that a vanishing probability gives no NaN.

    Args:
        batch: Scores, student and teacher: (Q, C).
        temperature: T > 0.

    Returns:
        A scalar of at least 0; 0 where both rank alike.
    """
    target = (batch.teacher / temperature).log_softmax(1)
    output = (batch.student / temperature).log_softmax(1)
    return temperature**2 * functional.kl_div(output, target, reduction="batchmean", log_target=True)
