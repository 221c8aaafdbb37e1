"""The student: a DistilBERT that starts from its teacher's layers, and the head that adapts on top of it.

First step of the distillation; `distill/trainer.py` trains what is built here. DistilBERT is BERT without token
types and pooler (Sanh et al. 2019), so a BERT layer fits a DistilBERT layer weight by weight.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor, nn

from distill.hyperparameters import Init, StudentHyperparameters
from storage.errors import InputError
from studies.device import autocast, device
from studies.encoder import Encoder, Ragged, pool
from studies.hyperparameters import Hyperparameters
from studies.learners import Learner, build
from studies.recommender import Head, Recommender
from studies.towers import TopLayersTower

if TYPE_CHECKING:
    from transformers import DistilBertConfig, DistilBertModel, PreTrainedModel

# DistilBERT's name of each part of a layer → BERT's.
_LAYER = {
    "attention.q_lin": "attention.self.query",
    "attention.k_lin": "attention.self.key",
    "attention.v_lin": "attention.self.value",
    "attention.out_lin": "attention.output.dense",
    "sa_layer_norm": "attention.output.LayerNorm",
    "ffn.lin1": "intermediate.dense",
    "ffn.lin2": "output.dense",
    "output_layer_norm": "output.LayerNorm",
}


class TokenTower(nn.Module):
    """Item vectors from an encoder that reads the tokens themselves: the student's, or a whole BERT beside it.

    It stays in evaluation mode while it trains: without dropout a step is a function of its inputs alone, and a
    student that matches given targets has no need of it.

    Args:
        model: the encoder; all of its weights train unless they are frozen already.
        tokens: the items' texts.
    """

    def __init__(self, model: PreTrainedModel, tokens: Ragged) -> None:
        super().__init__()
        self.model = model
        self.tokens = tokens
        self.eval()

    def forward(self, items: Tensor) -> Tensor:
        """(M,) item codes → (M, D) vectors of length 1."""
        ids, mask = self.tokens.padded(items, self.model.device)
        with autocast():
            hidden = self.model(input_ids=ids, attention_mask=mask).last_hidden_state
        return pool(hidden, mask)


@dataclass(frozen=True)
class Student:
    """A compact recommender: an encoder of its own under a head that adapts as the best teacher's does.

    Attributes:
        tower: turns items into vectors.
        learner: adapts the head to a scene; it holds no tower, so no encoder weight moves in its inner loop.
        max_tokens: where texts are cut.
        hyperparameters: what it was distilled with.
    """

    tower: TokenTower
    learner: Learner
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


def assemble(
    model: DistilBertModel,
    head: Head,
    tokens: Ragged,
    max_tokens: int,
    learner: Hyperparameters,
    hyperparameters: StudentHyperparameters,
) -> Student:
    """A student of its parts, on the device; its learner is the teacher's, with nothing of the encoder to adapt.

    Args:
        model: its encoder.
        head: its head; moved, not copied.
        tokens: the texts of the items it will be asked about.
        max_tokens: where these were cut.
        learner: the teacher's values; the inner loop is the same.
        hyperparameters: what the student is distilled with.
    """
    values = Hyperparameters(**learner.to_dict() | {"trainable_layers": 0})
    head.train_only(values.head)  # what the teacher's inner loop leaves alone, the student's must too
    recommender = Recommender(nn.Identity(), head).to(device())
    tower = TokenTower(model, tokens).to(device())
    return Student(tower, build(recommender, values), max_tokens, hyperparameters)


def student_config(encoder: Encoder, layers: int) -> DistilBertConfig:
    """The configuration of a student of an encoder, narrower in nothing but depth.

    Dropout stays as the teacher has it, for whoever trains the student further; the distillation uses none.

    Raises:
        InputError: more layers than the encoder has.
    """
    from transformers import DistilBertConfig

    if layers > encoder.layers:
        raise InputError(
            f"a student of {layers} layers cannot start from {encoder.name!r}, which has {encoder.layers}; "
            f"set distill.layers to at most {encoder.layers}"
        )
    bert = encoder.model.config
    return DistilBertConfig(
        vocab_size=bert.vocab_size,
        max_position_embeddings=bert.max_position_embeddings,
        n_layers=layers,
        n_heads=bert.num_attention_heads,
        dim=bert.hidden_size,
        hidden_dim=bert.intermediate_size,
        dropout=bert.hidden_dropout_prob,
        attention_dropout=bert.attention_probs_dropout_prob,
        activation=bert.hidden_act,
        initializer_range=bert.initializer_range,
        pad_token_id=bert.pad_token_id,
    )


def init_student(encoder: Encoder, teacher_tower: nn.Module | None, layers: int, init: Init) -> DistilBertModel:
    """A student that starts from its teacher's weights; with all layers it computes what the teacher does.

    Args:
        encoder: the BERT that the teachers are built on.
        teacher_tower: the best teacher's tower; the top layers that it trained take the place of the encoder's.
        layers: depth of the student.
        init: which layers it starts from: "alternate" (spread evenly, first and last included, as DistilBERT was
            made of BERT), "first" or "last".

    Raises:
        InputError: more layers than the encoder has.
    """
    from transformers import DistilBertModel

    config = student_config(encoder, layers)
    bert = encoder.model
    stack = list(bert.encoder.layer)
    embeddings = bert.embeddings.state_dict()
    if isinstance(teacher_tower, TopLayersTower):
        trained = list(teacher_tower.reader.layer)
        stack[len(stack) - len(trained) :] = trained
        if teacher_tower.reader.embeddings is not None:
            embeddings |= teacher_tower.reader.embeddings.state_dict()
    # Texts are single segments: token type 0 everywhere is one more summand of the position.
    positions = embeddings["position_embeddings.weight"] + embeddings["token_type_embeddings.weight"][0]
    weights = {
        "embeddings.word_embeddings.weight": embeddings["word_embeddings.weight"],
        "embeddings.position_embeddings.weight": positions,
        "embeddings.LayerNorm.weight": embeddings["LayerNorm.weight"],
        "embeddings.LayerNorm.bias": embeddings["LayerNorm.bias"],
    }
    for place, source in enumerate(_chosen(len(stack), layers, init)):
        state = stack[source].state_dict()
        for ours, theirs in _LAYER.items():
            for kind in ("weight", "bias"):
                weights[f"transformer.layer.{place}.{ours}.{kind}"] = state[f"{theirs}.{kind}"]
    student = DistilBertModel(config)
    student.load_state_dict(weights)
    return student


def _chosen(depth: int, layers: int, init: Init) -> list[int]:
    if init == "first":
        return list(range(layers))
    if init == "last":
        return list(range(depth - layers, depth))
    return [round(place * (depth - 1) / max(1, layers - 1)) for place in range(layers)]


def parameters(module: nn.Module) -> int:
    """Number of weights."""
    return sum(parameter.numel() for parameter in module.parameters())
