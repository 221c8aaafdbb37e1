"""The student: a DistilBERT initialised from its teacher's weights, under a head that adapts to scenes.

First step of the distillation; `distill/trainer.py` trains what is built here.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from torch import Tensor, nn
from torch.nn import functional

from distill.hyperparameters import StudentHyperparameters, Vocabulary
from distill.initialisation import init_encoder, student_config
from distill.vocabulary import needed_tokens, trim
from studies.config.hyperparameters import Hyperparameters
from studies.learners.base import Learner
from studies.learners.tasks.scene_tasks import scene_learner
from studies.model.device import autocast, device
from studies.model.encoder import Encoder, Ragged, pool, tokenize
from studies.model.recommender import Head, Recommender
from studies.training.problem import Problem

# transformers is imported where a student is built: it takes seconds.
if TYPE_CHECKING:
    from transformers import DistilBertModel, PreTrainedModel, PreTrainedTokenizerBase


class Encoded(NamedTuple):
    """Texts as an encoder reads them.

    Attributes:
        vectors: (M, D) of length 1.
        states: The (M, L, W) input of the first layer and output of every layer, where they were requested.
        mask: (M, L) true where there is a token.
    """

    vectors: Tensor
    states: tuple[Tensor, ...]
    mask: Tensor


class TokenTower(nn.Module):
    """Item vectors from an encoder that reads all tokens: the student's, or a whole BERT.

    It stays in evaluation mode while it trains: without dropout a step is a function of its inputs alone, and a
    student that matches given targets does not need it.

    Args:
        model: The encoder; all of its weights train unless they are frozen already.
        tokens: The items' texts, in the encoder's own vocabulary.
        projection: (W → D, no bias) from a narrower encoder's vectors to those of the teacher's width.
    """

    def __init__(self, model: PreTrainedModel, tokens: Ragged, projection: nn.Linear | None = None) -> None:
        super().__init__()
        self.model = model
        self.projection = projection
        self.tokens = tokens
        self.eval()

    def forward(self, items: Tensor) -> Tensor:
        """Return (M, D) vectors of length 1 of (M,) item codes."""
        return self.read(items).vectors

    def read(self, items: Tensor, *, states: bool = False) -> Encoded:
        """Return the vectors of (M,) item codes, and every layer's states with `states`."""
        ids, mask = self.tokens.padded(items, self.model.device)
        with autocast():
            out = self.model(input_ids=ids, attention_mask=mask, output_hidden_states=states)
        pooled = pool(out.last_hidden_state, mask)
        return Encoded(project(pooled, self.projection), out.hidden_states if states else (), mask)


def project(pooled: Tensor, projection: nn.Linear | None) -> Tensor:
    """Return (M, D) vectors of length 1 of (M, W) ones."""
    return pooled if projection is None else functional.normalize(projection(pooled), dim=-1)


@dataclass(frozen=True)
class Student:
    """A compact recommender: its own encoder under a head that adapts as the best teacher's does.

    Attributes:
        tower: Turns items into vectors.
        learner: Adapts the head to a scene; it holds no tower, so no encoder weight moves in its inner loop.
        tokenizer: The tokenizer of its vocabulary.
        max_tokens: Most tokens of a text.
        hyperparameters: What it was distilled with.
    """

    tower: TokenTower
    learner: Learner
    tokenizer: PreTrainedTokenizerBase
    max_tokens: int
    hyperparameters: StudentHyperparameters

    @property
    def head(self) -> Head:
        """The head that the learner adapts."""
        head: Head = self.learner.model.head
        return head

    @property
    def model(self) -> Recommender:
        """Tower and head as one module: everything that is trained and saved."""
        return Recommender(self.tower, self.head)


class Texts(NamedTuple):
    """A vocabulary, and a data set's texts in it.

    Attributes:
        kept: (V,) the encoder's ids of its tokens, ascending; none where it is the encoder's own.
        tokenizer: The tokenizer of the vocabulary.
        tokens: The texts.
    """

    kept: Tensor | None
    tokenizer: PreTrainedTokenizerBase
    tokens: Ragged


def texts_in(problem: Problem, vocabulary: Vocabulary) -> Texts:
    """Return a study's texts in a student's vocabulary, which does not depend on the texts of held-out scenes.

    Raises:
        InputError: The encoder's vocabulary cannot be trimmed.
    """
    tokenizer = problem.encoder.tokenizer
    if vocabulary == "full":
        return Texts(None, tokenizer, problem.tokens)
    kept = needed_tokens(tokenizer, problem.tokens, problem.visible_items.cpu())
    trimmed = trim(tokenizer, kept)
    return Texts(kept, trimmed, tokenize(trimmed, problem.data.texts, problem.spec.teacher.max_tokens))


def start(encoder: Encoder, teacher: Learner, texts: Texts, max_tokens: int, values: StudentHyperparameters) -> Student:
    """Return a student before its first step: its encoder is initialised from the teacher's, its head is the teacher's.

    Args:
        encoder: The BERT that the teachers are built on.
        teacher: The best of them; the top layers that it trained take the place of the encoder's.
        texts: The study's, in the student's vocabulary.
        max_tokens: Most tokens of a text.
        values: The student's.

    Raises:
        InputError: It has more layers or a greater width than the encoder.
    """
    model, projection = init_encoder(encoder, teacher.model.tower, texts.kept, values)
    head = copy.deepcopy(teacher.model.head)
    return assemble(model, projection, head, texts, max_tokens, teacher.hyperparameters, values)


def blank(
    encoder: Encoder, learner: Hyperparameters, texts: Texts, max_tokens: int, values: StudentHyperparameters
) -> Student:
    """Return a student of the same shape, into which weights can be loaded."""
    from transformers import DistilBertModel

    config = student_config(encoder, values, None if texts.kept is None else len(texts.kept))
    projection = nn.Linear(config.dim, encoder.width, bias=False) if config.dim < encoder.width else None
    head = Head(encoder.width, learned_rates=learner.entry.learns_inner_rates)
    return assemble(DistilBertModel(config), projection, head, texts, max_tokens, learner, values)


def assemble(
    model: DistilBertModel,
    projection: nn.Linear | None,
    head: Head,
    texts: Texts,
    max_tokens: int,
    learner: Hyperparameters,
    hyperparameters: StudentHyperparameters,
) -> Student:
    """Return a student made of its parts, on the device; it adapts as the teacher does, but with no encoder layer.

    Args:
        model: Its encoder.
        projection: See `TokenTower`.
        head: Its head; moved, not copied.
        texts: The items' texts in its vocabulary.
        max_tokens: Most tokens of a text.
        learner: The teacher's values; the inner loop is the same.
        hyperparameters: What the student is distilled with.
    """
    tower = TokenTower(model, texts.tokens, projection).to(device())
    return Student(tower, adapting_learner(head, learner), texts.tokenizer, max_tokens, hyperparameters)


def adapting_learner(head: Head, learner: Hyperparameters) -> Learner:
    """Return a learner, on the device, that adapts a head as a teacher with these values does, but no encoder layer."""
    values = Hyperparameters(**learner.to_dict() | {"trainable_layers": 0})
    head.train_only(values.head)  # the student's inner loop moves what the teacher's moves
    return scene_learner(Recommender(nn.Identity(), head).to(device()), values)


def parameters(module: nn.Module) -> int:
    """Return the number of weights."""
    return sum(parameter.numel() for parameter in module.parameters())
