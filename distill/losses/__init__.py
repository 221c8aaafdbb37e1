"""What pulls a student towards its teachers: one loss per file, each named by its weight in `[distill.space]`.

| loss | reads | shapes |
|---|---|---|
| `embedding` | vectors of the same texts | student, teacher: (B, D) |
| `relational` | vectors of the same texts | student, teacher: (B, D) |
| `hidden` | states of the same tokens, layer by layer | student: (B, L, W) each, teacher: (B, L, D) each |
| `listwise` | scores of the same candidates, each adapted to the same support | student, teacher: (Q, C) |
| `margin` | the same, and what users took | student, teacher, relevant, excluded: (Q, C) |
| `hard` | what users took: the teachers' own training loss | `studies.learners.tasks.losses.ranking_loss` |

A new loss is one file here, its weight in `studies/config/distill_section.py` and `distill/hyperparameters.py`, one
line in `distill/trainer.py`, and a test against an independent reference in `tests/unit/test_distill_losses.py`.
"""

from distill.losses.embedding import embedding_loss
from distill.losses.hidden import hidden_loss
from distill.losses.listwise import listwise_kl
from distill.losses.margin import margin_mse
from distill.losses.relational import relational_loss

__all__ = ["embedding_loss", "hidden_loss", "listwise_kl", "margin_mse", "relational_loss"]
