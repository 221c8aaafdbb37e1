"""What meta-training is timed on: a BERT 64 wide in a planted shop, and MiniLM on Complete Journey."""

from __future__ import annotations

import copy
import sys
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from peers.environment import HOME
from storage.files.atomic import atomic_folder
from studies.config.hyperparameters import Hyperparameters
from studies.config.spec import parse_spec
from studies.model.device import device
from studies.model.encoder import run_layers
from studies.model.pooling import pool
from studies.model.recommender import Recommender
from studies.training.prepare import prepare
from studies.training.problem import Problem

ROOT = Path(__file__).parents[2]
# Numbers of layers that a case may train: their activations are cached.
TRAINED = [0, 1, 2]


def d64() -> Problem:
    """Two layers 64 wide over short texts: what a step computes is little beside what it takes to start it."""
    sys.path.append(str(ROOT))  # the shop is a test's, and tests are not installed
    from tests.synthetic import planted_dataset, tiny_spec

    spec = tiny_spec(_encoder_64(HOME / "d64"), search={"space": {"trainable_layers": TRAINED}})
    return prepare(spec, HOME / "activations", data=planted_dataset(scenes=24, per_user=240))


def minilm(quick: bool) -> Problem:
    """MiniLM on grocery categories; small ones with short histories where it must be quick."""
    raw = {
        "name": "benchmark",
        "data": {"source": "completejourney", "max_scenes": 16 if quick else 24},
        "protocol": {"train_openings": 5} | ({"history": 4, "train_queries": 8, "queries": 8} if quick else {}),
        "search": {"space": {"trainable_layers": TRAINED}},
    }
    return prepare(parse_spec(raw), HOME / "activations")


def _encoder_64(folder: Path) -> Path:
    if not folder.exists():
        from transformers import BertConfig, BertModel

        from tests.synthetic import tiny_encoder

        with atomic_folder(folder) as made:
            config = BertConfig.from_pretrained(tiny_encoder(made))
            config.update({"hidden_size": 64, "num_hidden_layers": 2, "intermediate_size": 256})
            torch.manual_seed(0)
            BertModel(config).save_pretrained(made)
    return folder


class AllLayers(nn.Module):
    """The whole encoder over the tokens of every text, as one hands it to a library; its embeddings stay frozen.

    Nothing is cached and nothing is in bf16. That the token table is left out is to the library's advantage.
    """

    def __init__(self, problem: Problem) -> None:
        super().__init__()
        bert = problem.encoder.model.to(device())
        self.layers = copy.deepcopy(bert.encoder.layer).requires_grad_(True)
        # Not a module of this one: neither adapted nor copied.
        self._tokens, self._embed = problem.tokens, (bert.embeddings,)

    def forward(self, items: Tensor) -> Tensor:
        """(M,) item codes → (M, D) vectors of length 1."""
        ids, mask = self._tokens.padded(items, device())
        with torch.no_grad():
            hidden = self._embed[0](input_ids=ids)
        return pool(run_layers(self.layers, hidden, mask), mask)


def all_layers(problem: Problem, hyperparameters: Hyperparameters) -> Recommender:
    """The recommender with all layers in the loop; its head starts as that of the learners does."""
    head = problem.learner(replace(hyperparameters, trainable_layers=0)).model.head
    return Recommender(AllLayers(problem), head).to(device())
