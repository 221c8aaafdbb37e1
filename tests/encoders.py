"""Small random encoders of every architecture, each with a tokenizer of the kind that its real ones have."""

import json
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import (
    AutoConfig,
    AutoModel,
    BertTokenizer,
    DebertaV2Tokenizer,
    MPNetTokenizer,
    PreTrainedTokenizerBase,
    RobertaTokenizer,
    XLMRobertaTokenizer,
)
from transformers.utils import logging

from tests.synthetic import BRANDS, COLOURS, NOUNS, ROOMS, SCENES, SIZES

# In every one: the sizes of what configurations name alike.
_SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 66,
    "initializer_range": 0.1,
}
_TEXTS = [f"{COLOURS[i % 6]} {BRANDS[i % 5]} {SIZES[i % 3]} {scene}" for i, scene in enumerate(SCENES)]

# By architecture: what its configuration has beside these.
CONFIGS: dict[str, dict[str, object]] = {
    "bert": {},
    "distilbert": {"dim": 32, "n_layers": 3, "n_heads": 4, "hidden_dim": 48},
    "roberta": {},
    "xlm-roberta": {},
    "camembert": {},
    "electra": {"embedding_size": 24},
    "mpnet": {},
    "deberta-v2": {
        "relative_attention": True,
        "position_buckets": 8,
        "max_relative_positions": -1,
        "norm_rel_ebd": "layer_norm",
        "share_att_key": True,
        "pos_att_type": ["p2c", "c2p"],
        "position_biased_input": False,
        "type_vocab_size": 0,
    },
    # Layer 0 and 2 see all tokens, layer 1 its next neighbours.
    "modernbert": {"local_attention": 4, "global_attn_every_n_layers": 2},
}


def write_encoder(folder: Path, architecture: str) -> Path:
    """Save a random encoder with its tokenizer; return the folder."""
    logging.disable_progress_bar()
    tokenizer = tokenizer_of(architecture)
    tokenizer.save_pretrained(folder)
    ids = {"pad_token_id": tokenizer.pad_token_id, "bos_token_id": None, "eos_token_id": None}
    config = AutoConfig.for_model(
        architecture, **{**_SIZES, "vocab_size": len(tokenizer), **ids, **CONFIGS[architecture]}
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModel.from_config(config)
        for name, weight in model.named_parameters():
            # Norms and biases start as ones and zeros, which hide what is left out or mixed up.
            if weight.dim() == 1:
                torch.nn.init.normal_(weight, mean=float("weight" in name), std=0.3)
    model.save_pretrained(folder)
    return folder


def tokenizer_of(architecture: str) -> PreTrainedTokenizerBase:
    """The tokenizer of an architecture: WordPiece, byte-level BPE or Unigram."""
    if architecture in ("bert", "distilbert", "electra"):
        return BertTokenizer(vocab=_wordpiece(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]))
    if architecture == "mpnet":
        return MPNetTokenizer(vocab=_wordpiece(["<s>", "<pad>", "</s>", "<unk>", "[UNK]", "<mask>"]))
    if architecture in ("roberta", "modernbert"):
        vocabulary, merges = _bpe(["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
        return RobertaTokenizer(vocab=vocabulary, merges=merges)
    if architecture == "deberta-v2":
        return DebertaV2Tokenizer(vocab=_unigram(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]))
    return XLMRobertaTokenizer(vocab=_unigram(["<s>", "<pad>", "</s>", "<unk>", "<mask>"]))


def _wordpiece(special: list[str]) -> dict[str, int]:
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    words = [*COLOURS, *BRANDS, *SIZES, *ROOMS, *NOUNS]
    return {token: code for code, token in enumerate([*special, ",", *words, *letters, *(f"##{c}" for c in letters)])}


def _unigram(special: list[str]) -> list[tuple[str, float]]:
    """Words, their halves and letters, so that a text has many paths; the longer a piece, the likelier its letters."""
    words = [*COLOURS, *BRANDS, *SIZES, *ROOMS, *NOUNS]
    halves = [half for word in words for half in (f"▁{word[: len(word) // 2]}", word[len(word) // 2 :])]
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    pieces = dict.fromkeys([*(f"▁{word}" for word in words), *halves, "▁", ",", *letters])
    return [*((token, 0.0) for token in special), *((piece, -9.0 + 0.01 * len(piece)) for piece in pieces)]


def _bpe(special: list[str]) -> tuple[dict[str, int], list[tuple[str, str]]]:
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=340, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    made.train_from_iterator(_TEXTS, trainer)
    state = json.loads(made.to_str())["model"]
    return state["vocab"], [tuple(pair) for pair in state["merges"]]
