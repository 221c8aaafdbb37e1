"""The student: a DistilBERT initialised from its teacher's weights, under a head that adapts to scenes.

First step of the distillation; `distill/trainer.py` trains what is built here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import Tensor, nn
from torch.nn import functional

from distill.export.tasks.registry import exported_as
from distill.forms.form import StudentForm
from distill.hyperparameters import StudentHyperparameters, Vocabulary
from distill.initialisation import init_encoder, student_config
from distill.vocabulary import can_trim, needed_tokens, trim
from studies.config.hyperparameters import Hyperparameters
from studies.learners.base import Learner
from studies.model.device import autocast, device
from studies.model.encoder import Ragged, tokenize
from studies.model.pooling import Pooling, pool
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
    """Item vectors from an encoder that reads all tokens: the student's, or a whole teacher's.

    It stays in evaluation mode while it trains: without dropout a step is a function of its inputs alone, and a
    student that matches given targets does not need it.

    Args:
        model: The encoder; all of its weights train unless they are frozen already.
        tokens: The items' texts, in the encoder's own vocabulary.
        projection: (W → D, no bias) from a narrower encoder's vectors to those of the teacher's width.
        form: Says whether vectors are projected, or only compared with the teacher's through it, and what is pooled
            where that is not as the teacher does.
        pooling: How the teacher's token states become a text's vector.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokens: Ragged,
        projection: nn.Linear | None = None,
        form: type[StudentForm] = StudentForm,
        pooling: Pooling = "mean",
    ) -> None:
        super().__init__()
        self.model = model
        self.widening = projection
        self.tokens = tokens
        self.form = form
        self.pooling: Pooling = form.pooling or pooling
        self.eval()

    @property
    def projection(self) -> nn.Linear | None:
        """What the vectors are projected by; None where the head reads them in the encoder's own width."""
        return self.widening if self.form.projects else None

    def forward(self, items: Tensor) -> Tensor:
        """Return (M, D) vectors of length 1 of (M,) item codes."""
        return self.read(items).vectors

    def read(self, items: Tensor, *, states: bool = False) -> Encoded:
        """Return the vectors of (M,) item codes, and every layer's states with `states`."""
        ids, mask = self.tokens.padded(items, self.model.device)
        with autocast():
            out = self.model(input_ids=ids, attention_mask=mask, output_hidden_states=states)
        pooled = pool(out.last_hidden_state, mask, self.pooling)
        return Encoded(project(pooled, self.projection), out.hidden_states if states else (), mask)

    def beside_teacher(self, vectors: Tensor) -> Tensor:
        """Return (M, D) vectors to compare with the teacher's, of (M, W or D) ones that `forward` returned."""
        return vectors if self.form.projects else project(vectors, self.widening)

    def served_parameters(self) -> list[nn.Parameter]:
        """Return the weights that make the vector of a text, without those that only training needs."""
        return [*self.model.parameters(), *(() if self.projection is None else self.projection.parameters())]

    def over(self, tokens: Ragged) -> TokenTower:
        """Return the same tower over other texts."""
        return TokenTower(self.model, tokens, self.widening, self.form, self.pooling)


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
        prefix: What stands before every text.
    """

    tower: TokenTower
    learner: Learner
    tokenizer: PreTrainedTokenizerBase
    max_tokens: int
    hyperparameters: StudentHyperparameters
    prefix: str = ""

    @property
    def head(self) -> Any:
        """The head that the learner adapts."""
        return self.learner.model.head

    @property
    def model(self) -> nn.Module:
        """Tower and head as one module: everything that is trained and saved."""
        model: nn.Module = type(self.learner.model)(self.tower, self.head)
        return model


class Texts(NamedTuple):
    """A vocabulary, and a data set's texts in it.

    Attributes:
        kept: (V,) the encoder's ids of its tokens, ascending; none where it is the encoder's own.
        tokenizer: The tokenizer of the vocabulary.
        tokens: The texts.
        prefix: What stands before every text.
        pooling: How the teacher's token states become a text's vector.
    """

    kept: Tensor | None
    tokenizer: PreTrainedTokenizerBase
    tokens: Ragged
    prefix: str = ""
    pooling: Pooling = "mean"


def texts_in(problem: Problem, vocabulary: Vocabulary) -> Texts:
    """Return a study's texts in a student's vocabulary, which does not depend on the texts of held-out scenes.

    A vocabulary that cannot be trimmed is kept whole.
    """
    encoder = problem.encoder
    tokenizer, prefix, pooling = encoder.tokenizer, encoder.prefix, encoder.pooling
    if vocabulary == "full" or not can_trim(tokenizer):
        return Texts(None, tokenizer, problem.tokens, prefix, pooling)
    kept = needed_tokens(tokenizer, problem.tokens, problem.visible_items.cpu())
    trimmed = trim(tokenizer, kept)
    tokens = tokenize(trimmed, problem.data.texts, problem.spec.teacher.max_tokens, prefix=prefix)
    return Texts(kept, trimmed, tokens, prefix, pooling)


def start(problem: Problem, teacher: Learner, texts: Texts, values: StudentHyperparameters) -> Student:
    """Return a student before its first step: its encoder is initialised from the teacher's, and so is its head.

    Args:
        problem: The study's data, and the encoder that the teachers are built on.
        teacher: The best of them; the top layers that it trained take the place of the encoder's.
        texts: The study's, in the student's vocabulary.
        values: The student's.

    Raises:
        InputError: It has more layers or a greater width than the encoder.
    """
    kind = exported_as(problem.spec)
    form: type[StudentForm] = kind.part("form")
    model, projection = init_encoder(problem.encoder, teacher.model.tower, texts.kept, values)
    form.prepare(model)
    head = form.first_head(teacher.model.head, projection, _some_vectors(problem))
    learner = kind.part("head_learner")(head, teacher.hyperparameters)
    return assemble(model, projection, learner, texts, problem.spec.teacher.max_tokens, values, form)


def blank(problem: Problem, learner: Hyperparameters, texts: Texts, values: StudentHyperparameters) -> Student:
    """Return a student of the same shape, into which weights can be loaded."""
    from transformers import DistilBertModel

    encoder = problem.encoder
    config = student_config(encoder, values, texts.kept)
    projection = nn.Linear(config.dim, encoder.width, bias=False) if config.dim < encoder.width else None
    kind = exported_as(problem.spec)
    form: type[StudentForm] = kind.part("form")
    head = form.first_head(problem.head(learner), projection, _some_vectors(problem))
    adapting = kind.part("head_learner")(head, learner)
    return assemble(DistilBertModel(config), projection, adapting, texts, problem.spec.teacher.max_tokens, values, form)


def _some_vectors(problem: Problem) -> Tensor:
    """Return (R, D) vectors of some of the texts that a student may read, from the pretrained encoder."""
    items = problem.visible_items.cpu()
    return problem.cache.pooled()[items[:: max(1, len(items) // 1000)]]


def assemble(
    model: DistilBertModel,
    projection: nn.Linear | None,
    learner: Learner,
    texts: Texts,
    max_tokens: int,
    hyperparameters: StudentHyperparameters,
    form: type[StudentForm],
) -> Student:
    """Return a student made of its parts, on the device; it adapts as the teacher does, but with no encoder layer.

    Args:
        model: Its encoder.
        projection: See `TokenTower`.
        learner: Adapts its head over given vectors; its inner loop is the teacher's.
        texts: The items' texts in its vocabulary.
        max_tokens: Most tokens of a text.
        hyperparameters: What the student is distilled with.
        form: Of its study's students.
    """
    tower = TokenTower(model, texts.tokens, projection, form, texts.pooling).to(device())
    return Student(tower, learner, texts.tokenizer, max_tokens, hyperparameters, texts.prefix)


def teacher_tower(problem: Problem) -> TokenTower:
    """Return the whole pretrained encoder over a study's texts, on the device."""
    encoder = problem.encoder
    return TokenTower(encoder.model, problem.tokens, pooling=encoder.pooling).to(device())


def parameters(module: nn.Module) -> int:
    """Return the number of weights."""
    return sum(parameter.numel() for parameter in module.parameters())
