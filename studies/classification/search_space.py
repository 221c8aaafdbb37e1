"""The parameters that a search over classifiers may vary: what each may be, and its default domain.

What a parameter means is in `studies/config/hyperparameters.py`. Wide on purpose: what suits depends on the encoder and
on how far its pretraining is from the texts.
"""

from __future__ import annotations

from studies.config.hyperparameters import NAME_USES
from studies.config.search_domains import Domain, Numbers, Parameters, Range, Words
from studies.config.search_parameters import SEARCHED as OF_RANKING
from studies.learners.registry import CLASSIFICATION_LEARNERS

# Parameters that mean the same as in ranking. All texts of an episode are read: there are no candidates to sample.
_SHARED = {name: allowed for name, allowed in OF_RANKING.items() if name not in ("learner", "train_candidates")}

# What each parameter of the search space may be.
SEARCHED: Parameters = {
    "learner": Words(CLASSIFICATION_LEARNERS),
    **_SHARED,
    "label_smoothing": Numbers(float, 0, True, below=1),
    "temperature": Numbers(float, 0, False),
    "class_names": Words(NAME_USES),
}


def default_space(encoder_layers: int = 6) -> dict[str, Domain]:
    """Return every parameter with its default domain; what suits one learner better is in its entry of the registry.

    Args:
        encoder_layers: Layers of the pretrained encoder, all of which may train; those of "minilm" if left out.
    """
    return {
        "learner": list(CLASSIFICATION_LEARNERS),
        "outer_lr": Range(low=1e-5, high=1e-1, log=True),
        "meta_batch_size": [2, 4, 8, 16],
        "weight_decay": Range(low=1e-4, high=1.0, log=True),
        # "all" is the same as "projection" here.
        "head": ["scalars", "projection"],
        "trainable_layers": Range(low=0, high=encoder_layers),
        "inner_lr": Range(low=1e-3, high=10.0, log=True),
        "inner_steps": Range(low=1, high=20, log=True),
        "support_batch_size": [16, 64],
        "encoder_lr": Range(low=1e-6, high=1e-2, log=True),
        "dropout": Range(low=0.0, high=0.3),
        "label_smoothing": Range(low=0.0, high=0.3),
        "temperature": Range(low=0.02, high=1.0, log=True),
        "class_names": list(NAME_USES),
    }
