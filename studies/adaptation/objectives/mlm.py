"""Whole words of a text are hidden and predicted from the others: masked language modelling.

Source: Devlin et al., "BERT" (NAACL 2019), section 3.1, with whole words as in its later checkpoints; on a shop's own
texts: Gururangan et al., "Don't Stop Pretraining" (ACL 2020).
"""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from storage.errors import InputError
from studies.adaptation.encoding import chosen
from studies.adaptation.objectives.base import Objective, Training
from studies.model.device import autocast, device, device_settings
from studies.model.encoder import by_length, locate

# Of the hidden tokens, so many become the mask, and so many a random token; the others stay as they are.
MASKED, RANDOM = 0.8, 0.1
IGNORED = -100  # as in transformers' labels


class MaskedWords(Objective):
    """Predicts hidden words with the encoder's own head where its folder has one, else with a new one.

    The head's last layer is the encoder's table of tokens, as it was pretrained.
    """

    def __init__(self, training: Training) -> None:
        super().__init__(training)
        tokenizer = training.encoder.tokenizer
        if tokenizer.mask_token_id is None:
            raise InputError(
                f'teacher.adapt: "mlm" needs a tokenizer with a mask token, and that of {training.encoder.name!r} has '
                "none; leave the objective out"
            )
        self._mask, self._tokens = int(tokenizer.mask_token_id), training.adapting.tokens
        self._special = torch.tensor(sorted(tokenizer.all_special_ids))
        ordinary = torch.arange(training.encoder.config.vocab_size)
        self._ordinary = ordinary[~torch.isin(ordinary, self._special)].numpy()
        self._continues = _continuing(tokenizer, len(ordinary))
        self._model = _head_over(training)
        self.head = self._model

    def loss(self, rng: np.random.Generator) -> Tensor:
        """Return the loss of a batch of texts: the mean over their hidden tokens."""
        rows = chosen(rng, len(self._tokens), self.training.section.batch_size)
        total, count = torch.zeros((), device=device()), 0
        for group in by_length(self._tokens.lengths[rows], device_settings().distil_tokens):
            ids, mask = self._tokens.padded(rows[group], torch.device("cpu"))
            shown, wanted = self.hide(ids, mask, rng)
            states = self.training.adapting.states(shown.to(device()), mask.to(device()))
            hidden = wanted != IGNORED
            logits = self._predict(states[hidden.to(device())])
            total = total + functional.cross_entropy(logits.float(), wanted[hidden].to(device()), reduction="sum")
            count += int(hidden.sum())
        return total / max(1, count)

    def hide(self, ids: Tensor, mask: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Return (R, L) token ids with some whole words hidden, and the tokens to predict, elsewhere `IGNORED`.

        Args:
            ids: (R, L) token ids, padded.
            mask: (R, L) true where there is a token.
            rng: Chooses the words.
        """
        free = mask & ~torch.isin(ids, self._special)
        # A word's number in its text: one begins at every token that does not continue one, and at the first.
        words = (free & (~self._continues[ids] | (free.cumsum(1) == 1))).cumsum(1).numpy()
        counts = words.max(1, initial=0)
        chance = rng.random((len(ids), int(counts.max(initial=0)) + 1))
        wanted = np.maximum(1, np.round(self.training.section.mask * counts))
        # The words of the smallest random numbers; number 0 stands before the first word.
        chance[:, 0] = 2.0
        chance[np.arange(chance.shape[1]) > counts[:, None]] = 2.0
        bound = np.sort(chance, axis=1)[np.arange(len(ids)), np.minimum(wanted, counts).astype(int) - 1]
        taken = (chance <= np.minimum(bound, 1.0)[:, None])[np.arange(len(ids))[:, None], words] & free.numpy()
        kind, random = rng.random(ids.shape), rng.choice(self._ordinary, ids.shape)
        shown = np.where(taken & (kind < MASKED), self._mask, ids.numpy())
        shown = np.where(taken & (kind >= MASKED) & (kind < MASKED + RANDOM), random, shown)
        return torch.from_numpy(shown), torch.from_numpy(np.where(taken, ids.numpy(), IGNORED))

    def _predict(self, states: Tensor) -> Tensor:
        """Return the (H, V) logits of the tokens at (H, D) states."""
        with autocast():
            stand_in = cast("_Given", getattr(self._model, self._model.base_model_prefix))
            stand_in.states = states[None]
            logits: Tensor = self._model(input_ids=torch.zeros(1, len(states), dtype=torch.int64)).logits[0]
        return logits


class _Given(nn.Module):
    """Stands in for the encoder below a head: it returns states that were computed already.

    So the head, whatever its architecture, runs on the hidden tokens alone: over a vocabulary it costs as much as the
    encoder itself.
    """

    states: Tensor

    def forward(self, *_: Any, **__: Any) -> Any:
        """Return the states as a model does."""
        from transformers.modeling_outputs import BaseModelOutput  # takes seconds; only where texts are adapted on

        return BaseModelOutput(last_hidden_state=self.states)


def _head_over(training: Training) -> Any:
    """Return a model for masked language modelling whose table of tokens is that of the encoder in training."""
    from transformers import AutoModelForMaskedLM

    folder, _ = locate(training.teacher)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(training.section.seed)  # of the weights that the folder does not have
        model = AutoModelForMaskedLM.from_pretrained(
            folder, use_safetensors=True, trust_remote_code=False, dtype=torch.float32
        )
    table = training.adapting.model.get_input_embeddings().weight
    setattr(model, model.base_model_prefix, _Given())
    model.get_output_embeddings().weight = table
    model.to(device())
    return model


def _continuing(tokenizer: Any, size: int) -> Tensor:
    """Return (size,) whether each token continues a word: in its tokenizer's own sign, "##", "▁" or "Ġ"."""
    pieces = {code: piece for piece, code in tokenizer.get_vocab().items()}
    named = [pieces.get(code, "") for code in range(size)]
    if any(piece.startswith("##") for piece in named):
        return torch.tensor([piece.startswith("##") for piece in named])
    for sign in ("▁", "Ġ"):
        if any(piece.startswith(sign) for piece in named):
            return torch.tensor([not piece.startswith(sign) for piece in named])
    return torch.zeros(size, dtype=torch.bool)
