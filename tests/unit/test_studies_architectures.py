"""Encoders of every architecture: split anywhere, they compute what transformers computes; their learners can train."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, Transformer
from sentence_transformers.sentence_transformer.modules import Pooling as PoolingModule
from torch import Tensor
from torch.func import functional_call
from transformers import DistilBertModel, PreTrainedTokenizerBase

from distill.hyperparameters import StudentHyperparameters
from distill.inference import StudentRecommender
from distill.initialisation import init_encoder
from distill.student import TokenTower
from distill.vocabulary import can_trim, needed_tokens, trim
from storage.errors import InputError
from studies.adaptation.corpus import Corpus
from studies.adaptation.objectives.base import Training
from studies.adaptation.objectives.mlm import IGNORED, MaskedWords
from studies.adaptation.section import RankingAdapt
from studies.adaptation.trainer import AdaptationTrainer
from studies.config.definition import TeacherSection
from studies.config.hyperparameters import Hyperparameters
from studies.model.activation_cache import ActivationCache
from studies.model.device import full_precision, override_settings
from studies.model.encoder import Encoder, load, tokenize
from studies.model.pooling import Pooling, pool
from studies.model.pretrained.architectures import unlike
from studies.model.towers import TopLayers, build_tower
from studies.text_form import join_pair
from studies.training.prepare import prepare
from tests.encoders import CONFIGS, write_encoder
from tests.served import export_to, untrained
from tests.synthetic import planted_dataset, tiny_spec

TEXTS = ["red acme lamp", "blue", "white bolt small kitchen lamp, attic chair green delta large towel", "a b c d e"]


@pytest.fixture(scope="module", params=CONFIGS)
def encoder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    folder = write_encoder(tmp_path_factory.mktemp("architectures") / request.param, request.param)
    return load(TeacherSection(encoder=str(folder)))


@torch.no_grad()
def last_states(encoder: Encoder) -> tuple[Tensor, Tensor]:
    """What transformers makes of the texts, padded as its tokenizer pads them, and their mask."""
    inputs = encoder.tokenizer(TEXTS, padding=True, return_tensors="pt")
    mask = inputs["attention_mask"]
    return encoder.model(input_ids=inputs["input_ids"], attention_mask=mask).last_hidden_state, mask.bool()


def test_an_encoder_split_anywhere_gives_its_own_vectors(encoder: Encoder, tmp_path: Path) -> None:
    """A position, a mask or a norm left out moves vectors too little to be noticed in a recall."""
    states, mask = last_states(encoder)
    wanted = pool(states, mask)
    cache = ActivationCache(tmp_path, encoder, tokenize(encoder.tokenizer, TEXTS, 60))
    items = torch.arange(len(TEXTS))
    with full_precision():
        cache.build(range(encoder.layers + 1))
        torch.testing.assert_close(cache.pooled(), wanted, rtol=0, atol=2e-6)
        for layers in range(1, encoder.layers + 1):
            tower = build_tower(encoder, cache, layers, "eager")
            # Hidden states are kept in bf16.
            torch.testing.assert_close(tower(items).detach(), wanted, rtol=0, atol=5e-3)


def test_a_pair_of_texts_is_parted_as_the_encoder_was_trained(encoder: Encoder) -> None:
    """RoBERTa has two separators between the texts, BERT one; a prefix stands before the first text alone."""
    texts = [join_pair("red lamp", "blue towel"), "red lamp"]
    tokens = tokenize(encoder.tokenizer, texts, 60, prefix="small ")
    pair, single = torch.tensor_split(tokens.values, tokens.offsets[1:-1])
    assert pair.tolist() == encoder.tokenizer("small red lamp", "blue towel")["input_ids"]
    assert single.tolist() == encoder.tokenizer("small red lamp")["input_ids"]


def exact_top(encoder: Encoder, layers: int) -> tuple[TopLayers, Tensor, Tensor]:
    """The top layers, with what enters them in fp32, and the mask."""
    inputs = encoder.tokenizer(TEXTS, padding=True, return_tensors="pt")
    mask, parts = inputs["attention_mask"].bool(), encoder.parts
    with torch.no_grad():
        state = parts.words(inputs["input_ids"])
        if layers < encoder.layers:
            state = parts.embed(state)
            run = encoder.architecture.prepare(parts.shared, state, mask)
            for layer in list(parts.layers)[: encoder.layers - layers]:
                state = run(layer, state)
    return TopLayers(encoder, layers, "eager"), state, mask


def test_top_layers_are_exact_and_adapt_by_second_order_side_by_side(encoder: Encoder) -> None:
    """Bf16 hides small faults above; an operation without a second derivative, or without vmap, ends MAML's trials."""
    states, mask = last_states(encoder)
    for layers in (1, encoder.layers):
        top, hidden, _ = exact_top(encoder, layers)
        with full_precision():
            torch.testing.assert_close(top(hidden, mask).detach(), pool(states, mask), rtol=0, atol=2e-6)
            gradient = partial(second_order, top, hidden, mask)
            weights = {name: weight.detach() for name, weight in top.named_parameters()}
            single = gradient(weights)
            pair = {name: torch.stack([weight, weight]) for name, weight in weights.items()}
            found = torch.vmap(gradient)(pair)
        for name, wanted in single.items():
            for each in found[name]:
                torch.testing.assert_close(each, wanted, rtol=1e-3, atol=1e-3, msg=name)
        with override_settings(bf16=True):
            half = torch.vmap(gradient)(pair)
        flat = torch.stack([torch.cat([each[name].flatten() for name in single]) for each in (single, first(half))])
        assert torch.cosine_similarity(flat[0], flat[1], dim=0) > 0.999


def first(stacked: dict[str, Tensor]) -> dict[str, Tensor]:
    """The first of several sets of weights."""
    return {name: weights[0] for name, weights in stacked.items()}


def second_order(top: TopLayers, hidden: Tensor, mask: Tensor, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The gradient of a loss after a step of gradient descent on it."""

    def loss(weights: dict[str, Tensor]) -> Tensor:
        vectors: Tensor = functional_call(top, weights, (hidden, mask))
        return vectors.sum(-1).square().sum()

    def adapted(weights: dict[str, Tensor]) -> Tensor:
        step = torch.func.grad(loss)(weights)
        return loss({name: weight - 0.1 * step[name] for name, weight in weights.items()})

    found: dict[str, Tensor] = torch.func.grad(adapted)(weights)
    return found


def test_a_kernel_and_dropout_reach_every_layer(encoder: Encoder) -> None:
    """An encoder's own rate, or another kernel, would train otherwise than the trial's values say."""
    top, hidden, mask = exact_top(encoder, 2)
    other = TopLayers(encoder, 2, "sdpa", dropout=0.5)
    assert {module.p for module in other.modules() if isinstance(module, torch.nn.Dropout)} == {0.5}
    kernels = {module.config._attn_implementation for module in other.modules() if hasattr(module, "config")}
    assert kernels <= {"sdpa" if encoder.architecture.has_sdpa else "eager"}
    with torch.no_grad(), full_precision():
        torch.testing.assert_close(other.eval()(hidden, mask), top(hidden, mask), rtol=0, atol=2e-6)
        assert not torch.equal(other.train()(hidden, mask), other(hidden, mask))


# Those whose layers DistilBERT computes exactly; ELECTRA's words are narrower than its states here.
EXACT = ("bert", "distilbert", "roberta", "xlm-roberta", "camembert")


def test_a_student_starts_from_what_its_teacher_has_in_common_with_it(encoder: Encoder) -> None:
    """Positions off by one or a part under another's name leave a student that only looks initialised."""
    whole = encoder.tokenizer
    check_start(encoder, whole, None)
    if can_trim(whole):
        kept = needed_tokens(whole, tokenize(whole, TEXTS, 60), torch.arange(len(TEXTS)))
        check_start(encoder, trim(whole, kept), kept)


def check_start(encoder: Encoder, tokenizer: PreTrainedTokenizerBase, kept: Tensor | None) -> None:
    tokens, items = tokenize(tokenizer, TEXTS, 60), torch.arange(len(TEXTS))
    student, _ = init_encoder(encoder, None, kept, StudentHyperparameters(layers=encoder.layers))
    assert student.config.pad_token_id == tokenizer.pad_token_id
    assert student.config.max_position_embeddings >= 60
    with torch.no_grad(), full_precision():
        found, (states, mask) = TokenTower(student, tokens)(items), last_states(encoder)
    cosine = (found * pool(states, mask)).sum(1)
    if encoder.config.model_type in EXACT:
        # DistilBERT's norms add 1e-12 to a variance, others up to 1e-5.
        assert cosine.min() > 1 - 1e-4
        assert unlike(encoder.config) == ""
    else:
        with torch.no_grad(), full_precision():
            random = TokenTower(DistilBertModel(student.config), tokens)(items)
        assert cosine.mean() > (random * pool(states, mask)).sum(1).mean()
        assert unlike(encoder.config)
    narrow, projection = init_encoder(encoder, None, kept, StudentHyperparameters(layers=1, width=16))
    assert projection is not None
    assert narrow.config.dim == 16


def sentence_folder(folder: Path, architecture: str, pooling: Pooling, prompt: str = "") -> Path:
    """A random encoder as sentence-transformers saves it."""
    whole = SentenceTransformer(
        modules=[
            Transformer(str(write_encoder(folder / "plain", architecture))),
            PoolingModule(32, pooling_mode=pooling),
            Normalize(),
        ],
        prompts={"query": prompt} if prompt else None,
        default_prompt_name="query" if prompt else None,
        device="cpu",
    )
    whole.save_pretrained(str(folder / "whole"))
    return folder / "whole"


@pytest.mark.parametrize(
    ("architecture", "pooling", "prompt"),
    [("mpnet", "mean", ""), ("xlm-roberta", "cls", "small red: "), ("deberta-v2", "max", "query: ")],
)
def test_a_sentence_transformers_folder_encodes_the_same_here(
    architecture: str, pooling: Pooling, prompt: str, tmp_path: Path
) -> None:
    """Pooled by the mean or without its prefix, an encoder is another, and weaker, one."""
    folder = sentence_folder(tmp_path, architecture, pooling, prompt)
    found = load(TeacherSection(encoder=str(folder)))
    assert (found.pooling, found.prefix) == (pooling, prompt)
    cache = ActivationCache(tmp_path, found, tokenize(found.tokenizer, TEXTS, 60, prefix=found.prefix))
    with full_precision():
        cache.build({0})
    theirs = SentenceTransformer(str(folder), device="cpu").encode(TEXTS, convert_to_tensor=True)
    assert torch.cosine_similarity(cache.pooled(), theirs.cpu()).min() > 0.9999
    plain = load(TeacherSection(encoder=str(folder), pooling="mean", prefix=""))
    assert plain.identity == plain.weights
    assert (found.identity == plain.identity) is (pooling == "mean")


def test_what_sentence_transformers_files_ask_for_and_is_not_done_is_refused(tmp_path: Path) -> None:
    """Left out in silence, a projection or another pooling gives vectors that its users have never seen."""
    folder = sentence_folder(tmp_path, "bert", "mean", "query: ")

    def change(name: str, change: Callable[[Any], Any]) -> None:
        path = folder / name
        path.write_text(json.dumps(change(json.loads(path.read_text()))))

    with pytest.raises(InputError, match=r"prefix 'query: ' of .* takes 8 of the teacher\.max_tokens = 8, .* raise"):
        load(TeacherSection(encoder=str(folder), max_tokens=8))
    change("1_Pooling/config.json", lambda held: held | {"include_prompt": False})
    with pytest.raises(InputError, match=r'leaves its prefix .* out of pooling .* set teacher\.prefix = ""'):
        load(TeacherSection(encoder=str(folder)))
    assert load(TeacherSection(encoder=str(folder), prefix="")).prefix == ""
    change("1_Pooling/config.json", lambda held: {"pooling_mode": "lasttoken"})
    with pytest.raises(InputError, match=r"pools by lasttoken; accepted is one of mean, cls, max: set"):
        load(TeacherSection(encoder=str(folder)))
    assert load(TeacherSection(encoder=str(folder), pooling="cls")).pooling == "cls"
    change("modules.json", lambda held: [*held, {"idx": 3, "name": "3", "path": "3_Dense", "type": "x.Dense"}])
    with pytest.raises(InputError, match=r"has a sentence-transformers module Dense, which is not read here"):
        load(TeacherSection(encoder=str(folder)))


def test_weights_in_shards_are_read_and_missing_ones_are_refused(tmp_path: Path) -> None:
    """Large encoders come in shards; a layer that no file has would be random numbers."""
    folder = write_encoder(tmp_path / "bert", "bert")
    whole = load(TeacherSection(encoder=str(folder)))
    whole.model.save_pretrained(folder, max_shard_size="20KB")
    (folder / "model.safetensors").unlink(missing_ok=True)
    shards = sorted(folder.glob("model-*.safetensors"))
    assert len(shards) > 1
    again = load(TeacherSection(encoder=str(folder)))
    assert again.identity != whole.identity
    for name, weight in whole.model.state_dict().items():
        assert torch.equal(again.model.state_dict()[name], weight)
    index = folder / "model.safetensors.index.json"
    held = json.loads(index.read_text())
    lost = next(name for name in held["weight_map"] if "layer.2.output.dense.weight" in name)
    weights = load_file(folder / held["weight_map"][lost])
    save_file({name: each for name, each in weights.items() if name != lost}, folder / held["weight_map"].pop(lost))
    index.write_text(json.dumps(held))
    with pytest.raises(InputError, match=r"its weights lack encoder\.layer\.2\.output\.dense\.weight"):
        _ = load(TeacherSection(encoder=str(folder))).model
    shards[0].unlink()
    with pytest.raises(InputError, match=rf"lacks {shards[0].name}, which model\.safetensors\.index\.json names"):
        load(TeacherSection(encoder=str(folder)))


def test_a_student_of_another_encoder_is_exported_with_its_pooling_and_prefix(tmp_path: Path) -> None:
    """Opened by transformers or sentence-transformers, it would give other vectors, and no error."""
    folder = sentence_folder(tmp_path, "xlm-roberta", "cls", "small red: ")
    problem = prepare(tiny_spec(folder), tmp_path / "cache", data=planted_dataset())
    student = untrained(problem, Hyperparameters("protonet"))
    assert student.tokenizer.vocab_size < problem.encoder.config.vocab_size
    exported = export_to(problem, student, tmp_path / "export")
    held = StudentRecommender.load(exported)
    assert (held.manifest.pooling, held.manifest.prefix) == ("cls", "small red: ")
    card = (exported / "README.md").read_text()
    assert 'tokenizer(["small red: whole milk", "small red: oat drink"]' in card
    assert "first = hidden[:, 0]" in card
    assert "Every text stands behind ` small red:  `" in card
    with full_precision(), torch.no_grad():
        wanted = student.tower(torch.arange(5))
    torch.testing.assert_close(held._embedder.embed(problem.data.texts[:5]), wanted, rtol=0, atol=1e-5)
    assert held.manifest.formats["hf"].sentence_transformers_cosine == pytest.approx(1, abs=1e-5)


def test_every_architecture_is_adapted_by_whole_words_and_in_its_own_pooling(encoder: Encoder) -> None:
    """Each kind of tokenizer marks the pieces of a word in its own way, and each head reads states in its own."""
    section = RankingAdapt(objectives=["mlm", "contrastive"], steps=4, batch_size=4, mask=0.5)
    teacher, corpus = TeacherSection(encoder=encoder.name), Corpus(tuple(TEXTS), np.arange(len(TEXTS)))
    before = {name: tensor.clone() for name, tensor in encoder.read().state_dict().items()}
    trainer = AdaptationTrainer(encoder, corpus, section, teacher)
    trainer.train_to(4)
    changed = {name for name, tensor in trainer.weights().items() if not torch.equal(tensor, before[name])}
    assert len(changed) > len(before) / 2
    assert not any("word_embeddings" in name or "tok_embeddings" in name for name in changed)
    assert np.isfinite(trainer.losses).all()
    objective = MaskedWords(Training(encoder, trainer.adapting, corpus, section, teacher))
    words = encoder.tokenizer(TEXTS)
    ids, mask = trainer.adapting.tokens.padded(torch.arange(len(TEXTS)), torch.device("cpu"))
    for seed in range(8):
        _, wanted = objective.hide(ids, mask, np.random.default_rng(seed))
        for row in range(len(TEXTS)):
            of_word: dict[int | None, set[bool]] = {}
            for place, word in enumerate(words.word_ids(row)):
                of_word.setdefault(word, set()).add(bool(wanted[row, place] != IGNORED))
            assert all(len(taken) == 1 for taken in of_word.values())
            assert of_word.get(None, {False}) == {False}
