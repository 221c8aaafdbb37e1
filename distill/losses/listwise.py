"""The same scene, support and query, the same ranking."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional


def listwise_kl(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T² · KL(teacher ‖ student) of the rankings softened by T, averaged over queries (Hinton et al. 2015, section 2).

    The candidates of a query are the classes, as in ListNet (Cao et al. 2007, eq. 3). T² keeps the gradient's size
    the same at any temperature. Written with logarithms throughout, so that a vanishing probability gives no NaN.

    Args:
        student: (Q, C) scores, after adapting to the support.
        teacher: (Q, C) scores, after adapting to the same; constants added to a row change nothing.
        temperature: T > 0.

    Returns:
        A scalar ≥ 0; 0 where both rank alike.
    """
    target = (teacher / temperature).log_softmax(1)
    output = (student / temperature).log_softmax(1)
    return temperature**2 * functional.kl_div(output, target, reduction="batchmean", log_target=True)
