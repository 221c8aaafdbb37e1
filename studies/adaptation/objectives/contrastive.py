"""Two readings of a text under different dropout are nearest to each other (SimCSE).

Source: Gao et al., "SimCSE: Simple Contrastive Learning of Sentence Embeddings" (EMNLP 2021), eq. 4.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor

from studies.adaptation.encoding import chosen
from studies.adaptation.objectives.base import Objective
from studies.adaptation.objectives.in_batch import in_batch_loss


class TwoViews(Objective):
    """Unsupervised SimCSE: no text of a corpus is there twice, so all others of a batch are negatives."""

    def loss(self, rng: np.random.Generator) -> Tensor:
        """Return the loss of a batch of texts."""
        section, adapting = self.training.section, self.training.adapting
        rows = chosen(rng, len(adapting.tokens), section.batch_size)
        # Dropout draws anew in each reading.
        return in_batch_loss(adapting.vectors(rows), adapting.vectors(rows), section.temperature)
