"""The student: a DistilBERT that starts from its teacher's weights, and the head that adapts on top of it.

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
from studies.learners.base import Learner, build
from studies.model.device import autocast, device
from studies.model.encoder import Encoder, Ragged, pool, tokenize
from studies.model.recommender import Head, Recommender
from studies.training.problem import Problem

if TYPE_CHECKING:
    from transformers import DistilBertModel, PreTrainedModel, PreTrainedTokenizerBase


class Read(NamedTuple):
    """What an encoder makes of texts.

    Attributes:
        vectors: (M, D) of length 1.
        states: the (M, L, W) input of the first layer and every layer's output, where they were asked for.
        mask: (M, L) what is no padding.
    """

    vectors: Tensor
    states: tuple[Tensor, ...]
    mask: Tensor


class TokenTower(nn.Module):
    """Item vectors from an encoder that reads the tokens themselves: the student's, or a whole BERT beside it.

    It stays in evaluation mode while it trains: without dropout a step is a function of its inputs alone, and a
    student that matches given targets has no need of it.

    Args:
        model: the encoder; all of its weights train unless they are frozen already.
        tokens: the items' texts, in the encoder's own vocabulary.
        projection: (W → D, no bias) from a narrower encoder's vectors to those of the teacher's width.
    """

    def __init__(self, model: PreTrainedModel, tokens: Ragged, projection: nn.Linear | None = None) -> None:
        super().__init__()
        self.model = model
        self.projection = projection
        self.tokens = tokens
        self.eval()

    def forward(self, items: Tensor) -> Tensor:
        """(M,) item codes → (M, D) vectors of length 1."""
        return self.read(items).vectors

    def read(self, items: Tensor, *, states: bool = False) -> Read:
        """The vectors of (M,) item codes, with what every layer says of their tokens if asked for."""
        ids, mask = self.tokens.padded(items, self.model.device)
        with autocast():
            out = self.model(input_ids=ids, attention_mask=mask, output_hidden_states=states)
        pooled = pool(out.last_hidden_state, mask)
        return Read(project(pooled, self.projection), out.hidden_states if states else (), mask)


def project(pooled: Tensor, projection: nn.Linear | None) -> Tensor:
    """(M, W) vectors of length 1 → (M, D) of length 1."""
    return pooled if projection is None else functional.normalize(projection(pooled), dim=-1)


@dataclass(frozen=True)
class Student:
    """A compact recommender: an encoder of its own under a head that adapts as the best teacher's does.

    Attributes:
        tower: turns items into vectors.
        learner: adapts the head to a scene; it holds no tower, so no encoder weight moves in its inner loop.
        tokenizer: of the encoder's vocabulary.
        max_tokens: where texts are cut.
        hyperparameters: what it was distilled with.
    """

    tower: TokenTower
    learner: Learner
    tokenizer: PreTrainedTokenizerBase
    max_tokens: int
    hyperparameters: StudentHyperparameters

    @property
    def head(self) -> Head:
        """What the learner adapts."""
        return self.learner.model.head

    @property
    def model(self) -> Recommender:
        """Tower and head as one module: all that is trained and saved."""
        return Recommender(self.tower, self.head)


class Texts(NamedTuple):
    """A vocabulary, and a data set's texts in it.

    Attributes:
        kept: (V,) the encoder's ids of its tokens, ascending; none where it is the encoder's own.
        tokenizer: cuts texts into them.
        tokens: the texts.
    """

    kept: Tensor | None
    tokenizer: PreTrainedTokenizerBase
    tokens: Ragged


def texts_in(problem: Problem, vocabulary: Vocabulary) -> Texts:
    """A study's texts in a student's vocabulary; the texts of held-out scenes do not decide on it.

    Raises:
        InputError: the encoder's vocabulary cannot be cut down.
    """
    tokenizer = problem.encoder.tokenizer
    if vocabulary == "full":
        return Texts(None, tokenizer, problem.tokens)
    kept = needed_tokens(tokenizer, problem.tokens, problem.visible_items.cpu())
    trimmed = trim(tokenizer, kept)
    return Texts(kept, trimmed, tokenize(trimmed, problem.data.texts, problem.spec.teacher.max_tokens))


def start(encoder: Encoder, teacher: Learner, texts: Texts, max_tokens: int, values: StudentHyperparameters) -> Student:
    """A student before its first step: its encoder starts from the teacher's, its head is the teacher's.

    Args:
        encoder: the BERT that the teachers are built on.
        teacher: the best of them; the top layers that it trained take the place of the encoder's.
        texts: the study's, in the student's vocabulary.
        max_tokens: where these are cut.
        values: the student's.

    Raises:
        InputError: more layers or a greater width than the encoder has.
    """
    model, projection = init_encoder(encoder, teacher.model.tower, texts.kept, values)
    head = copy.deepcopy(teacher.model.head)
    return assemble(model, projection, head, texts, max_tokens, teacher.hyperparameters, values)


def blank(
    encoder: Encoder, learner: Hyperparameters, texts: Texts, max_tokens: int, values: StudentHyperparameters
) -> Student:
    """A student of the same shape whose weights are still to be loaded."""
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
    """A student of its parts, on the device; its learner is the teacher's, with nothing of the encoder to adapt.

    Args:
        model: its encoder.
        projection: see `TokenTower`.
        head: its head; moved, not copied.
        texts: of the items it will be asked about, in its vocabulary.
        max_tokens: where these were cut.
        learner: the teacher's values; the inner loop is the same.
        hyperparameters: what the student is distilled with.
    """
    tower = TokenTower(model, texts.tokens, projection).to(device())
    return Student(tower, adapting(head, learner), texts.tokenizer, max_tokens, hyperparameters)


def adapting(head: Head, learner: Hyperparameters) -> Learner:
    """Adapts a head, on the device, as a teacher with these values does, with nothing of an encoder to adapt."""
    values = Hyperparameters(**learner.to_dict() | {"trainable_layers": 0})
    head.train_only(values.head)  # what the teacher's inner loop leaves alone, the student's must too
    return build(Recommender(nn.Identity(), head).to(device()), values)


def parameters(module: nn.Module) -> int:
    """Number of weights."""
    return sum(parameter.numel() for parameter in module.parameters())
