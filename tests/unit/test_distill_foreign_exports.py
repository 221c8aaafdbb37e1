"""An export may come from anyone: whatever its files say, it is served or refused with one line that says why."""

import copy
import json
import os
import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

import distill.export.writer as exporting
from distill.inference import StudentRecommender
from storage.errors import InputError
from storage.files.atomic import sha256
from studies.config.hyperparameters import Hyperparameters
from studies.training.prepare import prepare
from tests.served import export_to, untrained
from tests.synthetic import planted_dataset, tiny_encoder, tiny_spec

TEXTS = ["red acme lamp", "blue bolt lamp", "green acme chair"]
# A run of minutes: FUZZ_EXAMPLES=20000 pytest tests/unit/test_distill_foreign_exports.py
EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "40"))


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    problem = prepare(tiny_spec(tiny_encoder(folder / "bert")), folder / "cache", data=planted_dataset())
    student = untrained(problem, Hyperparameters(learner="fomaml", inner_lr=0.05, inner_steps=2), width=16)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exporting, "_check_parity", lambda *_: None)  # slow, and shown elsewhere
        return export_to(problem, student, folder / "student")


@pytest.fixture
def foreign(exported: Path, tmp_path: Path) -> Path:
    """A copy to change."""
    return Path(shutil.copytree(exported, tmp_path / "foreign"))


@contextmanager
def rewritten(path: Path) -> Iterator[Any]:
    """A JSON file's value, written back after it was changed."""
    value = json.loads(path.read_text())
    yield value
    path.write_text(json.dumps(value))


def sealed(folder: Path) -> Path:
    """The folder with the digests of its files as they are now, as a stranger would write them."""
    with rewritten(folder / "manifest.json") as manifest:
        manifest["files"] = {name: sha256(folder / name) for name in manifest["files"]}
    return folder


def served(folder: Path) -> torch.Tensor:
    """The scores that a user gets."""
    catalogue = StudentRecommender.load(folder).catalogue(TEXTS)
    return catalogue.adapt([([TEXTS[1]], TEXTS[0])]).rank([[TEXTS[2]], []]).scores


@pytest.mark.parametrize(
    "name", ["../../../etc/hostname", "/etc/hostname", "onnx/../../secret", "a\x1b[2Jb", "x" * 300]
)
def test_a_manifest_names_files_of_its_own_folder_only(foreign: Path, name: str) -> None:
    """Any other file of the machine would be read, and its digest printed."""
    with rewritten(foreign / "manifest.json") as manifest:
        manifest["files"][name] = "0" * 64
    with pytest.raises(InputError, match=r"not a manifest \(files") as refused:
        served(foreign)
    assert "SHA-256" not in str(refused.value)


def test_the_digest_of_an_altered_file_is_not_told(foreign: Path, tmp_path: Path) -> None:
    """The file may be a link to one that its owner keeps secret."""
    (tmp_path / "secret").write_text("password")
    (foreign / "README.md").unlink()
    (foreign / "README.md").symlink_to(tmp_path / "secret")
    with pytest.raises(InputError, match=r"README\.md does not have the SHA-256") as refused:
        served(foreign)
    assert sha256(tmp_path / "secret") not in str(refused.value)


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        (("learner", "inner_steps"), 10**9, r"inner_steps must be below 1001, got 1000000000"),
        (("learner", "inner_lr"), -1.0, r"inner_lr must be above 0, got -1\.0"),
        (("learner", "inner_lr"), None, r"inner_lr has None"),
        (("learner", "learner"), "os.system", r"unknown learner 'os\.system'"),
        (("learner", "head"), "none", r"unknown head 'none'"),
        (("learner", "code"), "import os", r"unknown parameter 'code'"),
        (("layers",), 20_000, r"layers: .*less than or equal to 48"),
        (("max_tokens",), 10**6, r"max_tokens: .*less than or equal to 512"),
        (("spec", "protocol", "history"), 0, r"spec: .*protocol\.history"),
        (("spec", "protocol"), {}, None),
        (("distillation", "temperature"), "hot", r"temperature takes numbers, got 'hot'"),
        (("formats",), {"onnx": {}}, r"formats lack hf"),
        (("study",), "../../outside", r"study: .*without / or"),
    ],
    ids=lambda each: ".".join(each) if isinstance(each, tuple) else None,
)
def test_values_of_a_manifest_are_bounded(foreign: Path, place: tuple[str, ...], value: Any, said: str | None) -> None:
    """Each of these hung, filled the memory, or ended in an error of another library."""
    with rewritten(foreign / "manifest.json") as manifest:
        table = manifest
        for key in place[:-1]:
            table = table[key]
        table[place[-1]] = value
    if said is None:
        assert served(foreign).isfinite().all()  # what a study file leaves out has its default
        return
    with pytest.raises(InputError, match=said):
        served(foreign)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("_attn_implementation", "stranger/kernel", r"attn_implementation: .*'eager', 'sdpa'"),
        ("attn_implementation", "stranger/kernel", r"attn_implementation: .*'eager', 'sdpa'"),
        ("n_layers", 20_000, r"n_layers: .*less than or equal to 48"),
        ("n_layers", 3, r"describes 3 layers of width 16 .* the manifest 2, 16"),
        ("dim", 1 << 40, r"dim: .*less than or equal to 8192"),
        ("n_heads", 3, r"dim = 16 is no multiple of n_heads = 3"),
        ("hidden_dim", 4096, r"model\.safetensors: .*lin1.* is F32 of 32.*, accepted is .* of 4096"),
        ("activation", "os.system", r"unknown activation 'os\.system'"),
        ("max_position_embeddings", 8, r"has 8 positions, fewer than the 16 tokens"),
        ("pad_token_id", 10**6, r"pad_token_id = 1000000 is none of"),
        ("model_type", "bert", r"model_type: Input should be 'distilbert'"),
        ("auto_map", {"AutoModel": "evil.Model"}, None),
        ("quantization_config", {"quant_method": "evil"}, None),
    ],
)
def test_a_configuration_builds_a_distilbert_and_nothing_else(foreign: Path, key: str, value: Any, said: str) -> None:
    """Else transformers would fetch kernels, import code, or allocate whatever a configuration names."""
    wanted = served(foreign)
    with rewritten(foreign / "config.json") as config:
        config[key] = value
    if said is None:
        torch.testing.assert_close(served(sealed(foreign)), wanted)
        return
    with pytest.raises(InputError, match=said):
        served(sealed(foreign))


def change(name: str, file: str, to: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Path], None]:
    """A change of one tensor of a file, or a new one."""

    def apply(folder: Path) -> None:
        tensors = load_file(folder / file)
        tensors[name] = to(tensors.get(name, torch.ones(1))).contiguous()
        save_file(tensors, folder / file)

    return apply


WORDS = "embeddings.word_embeddings.weight"


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (change(WORDS, "model.safetensors", lambda w: w * torch.nan), r"word_embeddings.* not finite"),
        (change(WORDS, "model.safetensors", lambda w: w.long()), r"word_embeddings.weight is I64"),
        (change(WORDS, "model.safetensors", lambda w: w[:3]), r"is F32 of 3 × 16, accepted is"),
        (change("project.weight", "head.safetensors", lambda w: w * torch.inf), r"project.weight .* not finite"),
        (change("project.weight", "head.safetensors", lambda w: w[:, :3]), r"project.weight is F32 of 64 × 3"),
        (change("more", "head.safetensors", lambda w: w), r"holds an unknown 'more'"),
        (change("feature_weights", "head.safetensors", lambda w: w + 3e38), r"scores .* are not finite"),
        (change("linear.weight", "2_Dense/model.safetensors", lambda w: w.T), r"linear.weight is F32 of 16 × 32"),
        (change("buckets", "lexicon.safetensors", lambda b: b + 2**40), r"holds no counts of words"),
        (change("frequency", "lexicon.safetensors", lambda f: f - 10**9), r"holds no counts of words"),
        (lambda folder: (folder / "head.safetensors").write_bytes(b"\xff" * 9), r"head\.safetensors cannot be read"),
        (lambda folder: (folder / "tokenizer.json").write_text("{"), r"tokenizer\.json is not a tokenizer's file"),
        (lambda folder: (folder / "config.json").write_text("["), r"config\.json describes no student's encoder"),
    ],
    ids=range(13),
)
def test_weights_that_no_student_has_are_refused(foreign: Path, damage: Callable[[Path], None], said: str) -> None:
    """They would give scores that are no numbers, and exit 0, or an error of another library."""
    damage(foreign)
    with pytest.raises(InputError, match=said) as refused:
        served(sealed(foreign))
    assert len(str(refused.value)) < 1000


def test_a_token_without_a_row_is_refused(foreign: Path) -> None:
    """The first text that holds it would end the server in an IndexError."""
    with rewritten(foreign / "tokenizer.json") as tokenizer:
        tokenizer["model"]["vocab"]["stranger"] = 10**6
    with pytest.raises(InputError, match=r"tokenizer\.json has the token id 1000000, but the encoder has \d+ tokens"):
        served(sealed(foreign))


def test_a_manifest_without_end_is_refused(foreign: Path) -> None:
    """Python's parser ends in a RecursionError, which is no ValueError."""
    (foreign / "manifest.json").write_text("[" * 200_000)
    with pytest.raises(InputError, match="nested too deep"):
        served(foreign)


ODD = [
    None, True, 0, -1, 1, 3, 10**9, 10**400, 1e-300, -1e300, float("nan"), float("inf"), "", "x", "sdpa", "../x",
    "\x1b[2J", "\ud800", "a" * 5000, [], [1, [2]], {}, {"low": 0, "high": 10**9}, {"a": {"b": None}},
]  # fmt: skip


def mutate(value: Any, dice: random.Random) -> Any:
    """The value with one of its parts replaced by something odd, taken out, given twice or renamed."""
    if not isinstance(value, dict | list) or not value or dice.random() < 0.1:
        return copy.deepcopy(dice.choice(ODD))
    key = dice.choice(list(value) if isinstance(value, dict) else range(len(value)))
    if dice.random() < 0.7:
        value[key] = mutate(value[key], dice)
        return value
    kept = value.pop(key)
    if dice.random() < 0.5 and isinstance(value, dict):
        value[str(dice.choice(ODD))[:50]] = kept
    elif dice.random() < 0.5 and isinstance(value, list):
        value += [kept, kept]
    return value


def mutate_bytes(data: bytes, dice: random.Random) -> bytes:
    """The bytes with some of them changed, or their end missing."""
    if dice.random() < 0.3:
        return data[: dice.randrange(len(data) + 1)]
    changed = bytearray(data)
    for _ in range(dice.randrange(1, 9)):
        # Headers are at the start.
        changed[dice.randrange(min(len(data), dice.choice([8, 400, len(data)])))] = dice.randrange(256)
    return bytes(changed)


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.randoms(use_true_random=False), st.integers(0, 2), st.booleans())
def test_no_change_of_an_export_ends_in_a_traceback(
    exported: Path, tmp_path: Path, dice: random.Random, others: int, manifest_too: bool
) -> None:
    """Whoever serves folders of others must not find out one by one what these may hold."""
    foreign = tmp_path / "foreign"
    shutil.rmtree(foreign, ignore_errors=True)
    shutil.copytree(exported, foreign)
    files = sorted(path for path in foreign.rglob("*") if path.suffix in (".json", ".safetensors"))
    files.remove(foreign / "manifest.json")
    for path in dice.sample(files, others):
        if path.suffix == ".json" and dice.random() < 0.8:
            path.write_text(json.dumps(mutate(json.loads(path.read_text()), dice)))
        else:
            path.write_bytes(mutate_bytes(path.read_bytes(), dice))
    sealed(foreign)
    if manifest_too or not others:
        with rewritten(foreign / "manifest.json") as manifest:
            for _ in range(dice.randrange(1, 4)):
                mutate(manifest, dice)
    try:
        scores = served(foreign)
    except InputError as refused:
        str(refused)
    else:
        assert scores.isfinite().all()
