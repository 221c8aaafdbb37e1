"""The encoder's files, its tokens, and the cached activations that stand in for running it."""

import json
import re
import shutil
import string
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from storage.errors import InputError
from storage.files.atomic import sha256
from studies.config.definition import TeacherSection
from studies.config.hyperparameters import Hyperparameters
from studies.model.activation_cache import ActivationCache
from studies.model.device import fast_bf16, full_precision
from studies.model.encoder import MINILM_SHA256, Encoder, Ragged, by_length, load, run_layers, tokenize
from studies.model.pooling import Pooling, pool
from studies.model.text_coverage import TextCoverage, check_texts, measure
from studies.model.towers import TopLayersTower, build_tower
from studies.text_form import token_batches
from studies.training.objective import run_trial
from studies.training.prepare import prepare
from tests.encoders import write_encoder
from tests.heard import Heard
from tests.synthetic import BRANDS, COLOURS, SCENES, SIZES, planted_dataset, tiny_encoder, tiny_spec

CPU = torch.device("cpu")
# Different lengths, so that padding, masks and batches by length have something to get wrong.
TEXTS = [
    " ".join([COLOURS[i % 6], *BRANDS[: i % 5], SIZES[i % 3] * (i % 2), *SCENES[i % 7].split()[: 1 + i % 2]])
    for i in range(24)
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_encoder(tmp_path_factory.mktemp("encoder") / "tiny")


@pytest.fixture(scope="module")
def encoder(folder: Path) -> Encoder:
    return load(TeacherSection(encoder=str(folder)))


@pytest.fixture(scope="module")
def minilm() -> Encoder:
    return load(TeacherSection())


@pytest.fixture
def damaged(folder: Path, tmp_path: Path) -> Path:
    """A copy of the encoder's folder to damage."""
    return Path(shutil.copytree(folder, tmp_path / "damaged"))


def test_the_bundled_minilm_is_the_one_that_was_measured(minilm: Encoder) -> None:
    """Other weights under the same name would change every published number."""
    assert minilm.identity == MINILM_SHA256
    assert (minilm.layers, minilm.width, minilm.name) == (6, 384, "minilm")
    assert not minilm.model.training
    assert not any(parameter.requires_grad for parameter in minilm.model.parameters())


def test_a_folder_is_accepted_with_the_digest_it_has(folder: Path) -> None:
    """The check must compare with what the user wrote, and identify the encoder by the same digest."""
    digest = sha256(folder / "model.safetensors")
    assert load(TeacherSection(encoder=str(folder), sha256=digest)).identity == digest


def test_weights_saved_in_half_the_bytes_are_computed_with_in_fp32(damaged: Path) -> None:
    """Trained in bf16, small updates round to nothing; on some CPUs each product is slower too."""
    model = load(TeacherSection(encoder=str(damaged))).model
    model.to(torch.bfloat16).save_pretrained(damaged)
    assert load(TeacherSection(encoder=str(damaged))).model.dtype == torch.float32


def change_weights(folder: Path) -> None:
    weights = bytearray((folder / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (folder / "model.safetensors").write_bytes(weights)


def truncate_weights(folder: Path) -> None:
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[: len(weights) // 2])


def pickle_weights(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def remove_tokenizer(folder: Path) -> None:
    for path in folder.glob("tokenizer*"):
        path.unlink()


def break_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").write_text('{"version": "1.0", "model": {"type": "Other"}}')


def take_a_slow_tokenizer(folder: Path) -> None:
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "CanineTokenizer"}')


def become_albert(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "albert"}))


def remove_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def break_config(folder: Path) -> None:
    (folder / "config.json").write_text("{")


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (change_weights, r"model\.safetensors has SHA-256 [0-9a-f]{64}, expected [0-9a-f]{64}; the file is damaged"),
        (pickle_weights, r"has no model\.safetensors but pytorch_model\.bin, a pickle, .*; save the model again with"),
        (remove_tokenizer, r"has no tokenizer .*tokenizer\.save_pretrained"),
        (
            break_tokenizer,
            r"cannot read the tokenizer of teacher\.encoder = .*; save it again with tokenizer\.save_pre",
        ),
        (take_a_slow_tokenizer, r"CanineTokenizer, cannot be saved as tokenizer\.json, from which exports are served"),
        (become_albert, r"is a 'albert' model, whose layers cannot be split .* one of bert, distilbert, roberta,"),
        (remove_config, r"cannot load teacher\.encoder = .*; accepted: 'minilm'"),
        (break_config, r"cannot load teacher\.encoder = .*; accepted: 'minilm'"),
    ],
)
def test_a_wrong_folder_is_refused_with_what_is_wrong(
    folder: Path, damaged: Path, damage: Callable[[Path], None], said: str
) -> None:
    """Loaded all the same, it would be a random, a foreign or a half-read model with a recall to show for it."""
    damage(damaged)
    expected = sha256(folder / "model.safetensors")
    with pytest.raises(InputError, match=said) as refused:
        load(TeacherSection(encoder=str(damaged), sha256=expected))
    assert "\n" not in str(refused.value)


def add_tokens(folder: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["corvo-x"])
    tokenizer.save_pretrained(folder)


def test_an_encoder_has_a_row_for_every_token_and_position(damaged: Path) -> None:
    """The first text that holds it would end a trial in an IndexError."""
    with pytest.raises(InputError, match=r"teacher\.max_tokens = 65, but .* has positions for 64"):
        load(TeacherSection(encoder=str(damaged), max_tokens=65))
    add_tokens(damaged)
    with pytest.raises(InputError, match=r"has 90 tokens, its model has embeddings of 89: .*resize_token_embeddings"):
        load(TeacherSection(encoder=str(damaged)))


def test_truncated_weights_are_refused_even_without_an_expected_digest(damaged: Path) -> None:
    """A copy cut short is the commonest damage, and most users give no digest."""
    truncate_weights(damaged)
    with pytest.raises(InputError, match=r"cannot load teacher\.encoder = "):
        load(TeacherSection(encoder=str(damaged)))


def test_weights_that_do_not_fit_their_configuration_are_refused(damaged: Path) -> None:
    """They are read late, maybe in the middle of a study: still one line that names the encoder."""
    config = json.loads((damaged / "config.json").read_text())
    (damaged / "config.json").write_text(json.dumps(config | {"intermediate_size": 7}))
    with pytest.raises(InputError, match=r"cannot load teacher\.encoder = .*; accepted: 'minilm'"):
        _ = load(TeacherSection(encoder=str(damaged))).model


def test_trials_of_a_frozen_encoder_whose_output_is_cached_do_not_read_it(folder: Path, tmp_path: Path) -> None:
    """Each worker would spend seconds and the model's memory on what it never runs."""
    spec, data = tiny_spec(folder, search={"space": {"trainable_layers": 0}}), planted_dataset()
    prepare(spec, tmp_path / "cache", data=data)
    problem = prepare(spec, tmp_path / "cache", data=data)
    problem.refuse_too_large(workers=1)
    run_trial(problem, Hyperparameters("protonet"), tmp_path / "trial", lambda reached: None)
    assert "model" not in vars(problem.encoder)
    assert problem.encoder.model is problem.encoder.model


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere/at/all", "~/nowhere-at-all"])
def test_a_missing_folder_is_not_looked_up_on_the_hub(name: str) -> None:
    """A path sent to the hub as a model's name gives an error about networks and tokens."""
    with pytest.raises(InputError, match=re.escape(f"teacher.encoder = {name!r}: there is no such folder")):
        load(TeacherSection(encoder=name))


def test_tokens_are_the_tokenizers_own_cut_at_the_limit(encoder: Encoder) -> None:
    """Special tokens lost to the cut would move every pooled vector."""
    tokens = tokenize(encoder.tokenizer, TEXTS, 5)
    assert len(tokens) == len(TEXTS)
    rows = [tokens.values[a:b].tolist() for a, b in zip(tokens.offsets, tokens.offsets[1:], strict=False)]
    whole = [encoder.tokenizer(text)["input_ids"] for text in TEXTS]
    assert rows == [[*ids[:4], ids[-1]] if len(ids) > 5 else ids for ids in whole]
    assert tokens.lengths.tolist() == [len(row) for row in rows]
    assert max(map(len, whole)) > 5 > min(map(len, whole))


def test_a_text_is_cut_before_it_is_split_into_tokens(encoder: Encoder) -> None:
    """A tokenizer reads all of a text and takes 150 bytes for each character; the cut must not show in the tokens."""
    long = ["x" * 100 + " red " * 9, "lamp " * 200, "red, " * 3]
    batches = list(token_batches([*long, *TEXTS, "red " * 10**6], max_tokens=5, most=10))
    assert max(len(batch) for batch in batches) == 10
    assert max(len(text) for batch in batches for text in batch) < 1000
    assert sum(map(len, batches)) == len(TEXTS) + 4
    whole = [encoder.tokenizer(text)["input_ids"] for text in long]
    assert tokenize(encoder.tokenizer, long, 5).values.tolist() == [
        token for ids in whole for token in [*ids[:4], ids[-1]]
    ]
    many = list(token_batches(["red " * 10**5] * 20, max_tokens=10**6, most=1000))
    assert max(sum(map(len, batch)) for batch in many) < 2 * 10**6


# Each letter as a Chinese character.
TO_HAN = {ord(letter): chr(0x4E00 + place) for place, letter in enumerate(string.ascii_lowercase)}
ragged = st.lists(st.lists(st.integers(-9, 9), min_size=1, max_size=6), min_size=1, max_size=8)


def made(rows: list[list[int]], width: int | None = None) -> Ragged:
    values = torch.tensor([value for row in rows for value in row])
    if width is not None:
        values = torch.stack([values, values * 2], dim=1)
    return Ragged(values, torch.tensor([0, *(len(row) for row in rows)]).cumsum(0))


@settings(deadline=None)
@given(ragged, st.data())
def test_padding_equals_padding_row_by_row(rows: list[list[int]], data: st.DataObject) -> None:
    """An offset wrong by one reads a neighbour's tokens, and the model happily encodes them."""
    chosen = data.draw(st.lists(st.integers(0, len(rows) - 1), min_size=1, max_size=10))
    for width in (None, 2):
        values, mask = made(rows, width).padded(torch.tensor(chosen), CPU)
        longest = max(len(rows[i]) for i in chosen)
        assert mask.tolist() == [[c < len(rows[i]) for c in range(longest)] for i in chosen]
        assert values.shape[:2] == mask.shape
        for row, visible, i in zip(values, mask, chosen, strict=True):
            expected = rows[i] if width is None else [[value, value * 2] for value in rows[i]]
            assert row[visible].tolist() == expected
    assert made(rows).lengths.tolist() == [len(row) for row in rows]


@settings(deadline=None)
@given(st.lists(st.integers(1, 50), min_size=0, max_size=60), st.integers(1, 120))
def test_batches_by_length_cover_every_row_once_within_the_budget(lengths: list[int], budget: int) -> None:
    """A row left out keeps whatever was in memory; a batch over the budget ends in an out-of-memory kill."""
    batches = list(by_length(torch.tensor(lengths, dtype=torch.int64), budget))
    assert sorted(row for batch in batches for row in batch.tolist()) == list(range(len(lengths)))
    for batch in batches:
        longest = max(lengths[row] for row in batch.tolist())
        assert len(batch) == 1 or len(batch) * longest <= budget
    flat = [lengths[row] for batch in batches for row in batch.tolist()]
    assert flat == sorted(lengths, reverse=True)


@torch.no_grad()
def plain(encoder: Encoder, text: str) -> Tensor:
    """Sentence-transformers' mean pooling and normalisation, one text at a time, without any padding."""
    tokens = encoder.tokenizer(text, return_tensors="pt")
    state = encoder.model(**tokens).last_hidden_state[0]
    return state.mean(0) / state.mean(0).norm()


@pytest.mark.parametrize("name", ["encoder", "minilm"])
def test_cached_embeddings_equal_the_plain_model(request: pytest.FixtureRequest, tmp_path: Path, name: str) -> None:
    """Padding that leaks into the mean, or a mask of the wrong kind, moves vectors too little to be noticed later."""
    encoder: Encoder = request.getfixturevalue(name)
    tokens = tokenize(encoder.tokenizer, TEXTS, 32)
    expected = torch.stack([plain(encoder, text) for text in TEXTS])
    with full_precision():
        exact = ActivationCache(tmp_path / "fp32", encoder, tokens)
        exact.build({0})
    torch.testing.assert_close(exact.pooled(), expected, rtol=0, atol=2e-6)
    usual = ActivationCache(tmp_path / "usual", encoder, tokens)
    usual.build({0})
    # bf16 keeps 8 bits: one part in 256 per component, less in the mean.
    torch.testing.assert_close(usual.pooled(), expected, rtol=0, atol=8e-3 if fast_bf16() else 2e-6)
    assert usual.pooled().dtype == torch.float32


@pytest.mark.parametrize("layers", [1, 2, 4])
def test_top_layers_over_cached_states_equal_the_whole_model(encoder: Encoder, tmp_path: Path, layers: int) -> None:
    """Split at the wrong depth, the trained encoder would start as another model than the frozen one."""
    tokens = tokenize(encoder.tokenizer, TEXTS, 32)
    cache = ActivationCache(tmp_path, encoder, tokens)
    with full_precision():
        cache.build({0, layers})
        tower = build_tower(encoder, cache, layers, "eager")
        vectors = tower(torch.arange(len(TEXTS)))
        shuffled = torch.randperm(len(TEXTS), generator=torch.Generator().manual_seed(0))
        torch.testing.assert_close(tower(shuffled), vectors[shuffled], rtol=0, atol=1e-5)
    # Hidden states are kept in bf16; the layers above compute in fp32.
    expected = torch.stack([plain(encoder, text) for text in TEXTS])
    torch.testing.assert_close(vectors.detach(), expected, rtol=0, atol=5e-3)
    assert isinstance(tower, TopLayersTower)
    assert len(tower.top_layers.layer) == layers
    assert all(parameter.requires_grad for parameter in tower.parameters())
    assert not any(parameter.requires_grad for parameter in encoder.model.parameters())


def test_training_a_tower_does_not_change_the_shared_encoder(encoder: Encoder, tmp_path: Path) -> None:
    """Trials of one process share the encoder: layers not copied would carry one trial's training into the next."""
    cache = ActivationCache(tmp_path, encoder, tokenize(encoder.tokenizer, TEXTS, 32))
    cache.build({0, 1})
    before = {name: value.clone() for name, value in encoder.model.state_dict().items()}
    tower = build_tower(encoder, cache, 1, "eager")
    with torch.no_grad():
        for parameter in tower.parameters():
            parameter.add_(1)
    assert all(torch.equal(value, before[name]) for name, value in encoder.model.state_dict().items())


@pytest.mark.parametrize("pooling", ["mean", "cls", "max"])
def test_masked_positions_change_nothing(encoder: Encoder, pooling: Pooling) -> None:
    """The contents of padding are arbitrary memory: they must not reach a vector."""
    hidden = torch.randn(2, 5, 32, generator=torch.Generator().manual_seed(0))
    mask = torch.tensor([[True, True, True, False, False], [True] * 5])
    other = torch.where(mask[..., None], hidden, 7 * hidden + 3)
    layers = encoder.model.encoder.layer
    with torch.no_grad():
        a, b = (pool(run_layers(layers, states, mask), mask, pooling) for states in (hidden, other))
    torch.testing.assert_close(a, b, rtol=0, atol=1e-6)


KINDS = ("跑鞋", "慢跑鞋", "连衣裙", "电饭煲", "方便面", "羽绒服", "双肩包", "保温杯")
CHINESE = [
    brand + series + colour + kind
    for kind in KINDS
    for colour in ("红色", "蓝色", "黑色", "白色", "绿色")
    for brand in ("华为", "小米", "李宁", "安踏")
    for series in ("新款", "经典")
]


def coverage(minilm: Encoder, texts: list[str], max_tokens: int = 48) -> TextCoverage:
    return measure(minilm.tokenizer, tokenize(minilm.tokenizer, texts, max_tokens), max_tokens)


def test_texts_of_an_unknown_language_are_counted_and_named(minilm: Encoder) -> None:
    """Chinese titles become [UNK] and one another, and every score of two colours is the same, without an error."""
    found = coverage(minilm, CHINESE)
    pieces = [piece for text in CHINESE for piece in minilm.tokenizer.tokenize(text)]
    assert found.unknown == pytest.approx(pieces.count("[UNK]") / len(pieces))
    assert found.unknown > 0.7
    rows = [tuple(minilm.tokenizer(text)["input_ids"]) for text in CHINESE]
    assert found.equal_unknown == sum(rows.count(row) > 1 for row in rows) == 296
    behind = tokenize(minilm.tokenizer, CHINESE, 48, prefix="an instruction: ")
    assert measure(minilm.tokenizer, behind, 48, "an instruction: ") == found
    (said,) = found.warnings("minilm")
    assert re.search(r"does not know 79% .* 296 of 320 texts become equal .* English.*bge-small-zh.*e5-small", said)
    assert "English" not in found.warnings("./bert")[0]


@pytest.mark.parametrize(
    "texts",
    [
        ["красные кроссовки мужские", "рисоварка из стали 5 л"],
        ["κόκκινα αθλητικά παπούτσια", "πλήρες γάλα"],
        ["حذاء رياضي أحمر للرجال", "حليب كامل الدسم"],
        ["빨간 운동화 남성용", "스테인리스 밥솥"],
        ["नमक", "चावल कुकर"],
    ],
)
def test_texts_read_letter_by_letter_are_named(minilm: Encoder, texts: list[str]) -> None:
    """No piece of them is unknown, and no word is known either."""
    found = coverage(minilm, texts)
    assert found.unknown < 0.1
    assert re.search(r"reads \d+% of the texts' letters one by one", found.warnings("minilm")[0])


def test_texts_that_an_encoder_reads_are_not_warned_of(minilm: Encoder) -> None:
    """A warning on every shop with a rare brand, article numbers or accents is one that nobody reads."""
    western = ["Rote Laufschuhe für Herren", "czerwone buty męskie", "kırmızı koşu ayakkabısı", "Crème brûlée №5 ™"]
    codes = ["XJ-42B 9921", "K9921-Q", "ZT7/A", "47 Ω 5 %", "10 µ"]
    mixed = [*(f"red shoe {number}" for number in range(40)), "红色 shoe", "RED shoe 1"]
    for texts in (western, codes, ["47 Ω", "10 µ"], mixed):
        assert coverage(minilm, texts).warnings("minilm") == []


def test_texts_that_are_cut_before_they_differ_are_named(minilm: Encoder) -> None:
    """The cause is not the language, and another encoder would not help."""
    found = coverage(minilm, [f"a very long and most beautiful shoe of size {size}" for size in range(20)], 6)
    assert (found.unknown, found.equal_unknown, found.equal_cut) == (0, 0, 20)
    (said,) = found.warnings("minilm")
    assert re.search(r"20 of 20 texts become equal to another, being cut at teacher\.max_tokens = 6; raise it", said)
    (said,) = coverage(minilm, [f"size {size} of a very long shoe" for size in range(20)], 6).warnings("minilm")
    assert said.startswith("20 of 20 texts reach teacher.max_tokens = 6, and what is beyond is not read; raise it")


@pytest.mark.parametrize("name", ["nobody/has-this-encoder", "./nowhere", "damaged"])
def test_an_encoder_that_cannot_be_read_here_is_not_checked(name: str, damaged: Path) -> None:
    """The check of the data must not fail for the encoder, nor wait for a network."""
    if name == "damaged":
        (damaged / "tokenizer.json").write_text("{")
        name = str(damaged)
    (said,) = check_texts(TeacherSection(encoder=name), CHINESE)
    assert re.search(rf"{name!r} cannot be read on this machine: .* was not checked", said)


def test_a_study_says_once_what_its_encoder_cannot_read(folder: Path, tmp_path: Path) -> None:
    """The search would go on for hours over articles that are all one."""
    data, heard = planted_dataset(), Heard()
    chinese = replace(data, texts=[f"{text} 跑鞋".translate(TO_HAN) for text in data.texts])

    def unreadable() -> int:
        return sum("does not know 100% of the texts' pieces" in note for note in heard.notes)

    prepare(tiny_spec(folder), tmp_path / "cache", data=chinese, reporter=heard)
    assert unreadable() == 1
    prepare(tiny_spec(folder), tmp_path / "cache", data=data, reporter=heard)
    assert unreadable() == 1


def test_a_vocabulary_that_cannot_be_trimmed_is_said_before_the_search(tmp_path: Path) -> None:
    """A student that keeps 50,000 tokens of its teacher is larger than its user expects."""
    folder, heard = write_encoder(tmp_path / "roberta", "roberta"), Heard()
    prepare(tiny_spec(folder), tmp_path / "cache", data=planted_dataset(), reporter=heard)
    assert (
        sum("keep its whole vocabulary: its tokenizer is BPE, and only WordPiece" in note for note in heard.notes) == 1
    )
