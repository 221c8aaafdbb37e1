"""Checkpoints come back as they were saved, or not at all."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from storage import checkpoints
from storage.errors import CorruptArtifact

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.int64, torch.uint8, torch.bool)
shapes = st.lists(st.integers(0, 4), max_size=3)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=40, deadline=None)
@given(
    described=st.dictionaries(st.text(min_size=1, max_size=9), st.tuples(shapes, st.sampled_from(DTYPES)), max_size=4),
    metadata=st.dictionaries(st.text(max_size=9), json_values, max_size=4),
)
def test_tensors_and_metadata_round_trip(
    tmp_path_factory: pytest.TempPathFactory,
    described: dict[str, tuple[list[int], torch.dtype]],
    metadata: dict[str, object],
) -> None:
    """A dtype silently widened, or a scalar given a dimension, changes what a resumed run computes."""
    tensors = {name: (torch.randn(shape) * 5).to(dtype) for name, (shape, dtype) in described.items()}
    folder = tmp_path_factory.mktemp("round") / "checkpoint"
    checkpoints.save(folder, tensors, metadata)
    loaded, stored = checkpoints.load(folder)
    assert stored == metadata
    assert loaded.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert loaded[name].dtype == tensor.dtype
        assert torch.equal(loaded[name], tensor)


def test_tied_transposed_and_trained_tensors_round_trip(tmp_path: Path) -> None:
    """BERT ties its decoder to its embeddings: safetensors refuses shared memory unless it is copied."""
    weight = torch.randn(3, 4, requires_grad=True)
    tensors = {"embedding": weight, "decoder": weight, "view": weight[1:], "transposed": weight.T}
    checkpoints.save(tmp_path / "c", tensors, {})
    loaded, _ = checkpoints.load(tmp_path / "c")
    for name, tensor in tensors.items():
        assert torch.equal(loaded[name], tensor)
        assert not loaded[name].requires_grad


def test_saving_again_replaces_the_checkpoint(tmp_path: Path) -> None:
    """Weights of one step beside the metadata of another would resume from nowhere."""
    for step in range(2):
        checkpoints.save(tmp_path / "c", {"w": torch.full((2,), float(step))}, {"step": step})
    loaded, metadata = checkpoints.load(tmp_path / "c")
    assert (loaded["w"].tolist(), metadata) == ([1.0, 1.0], {"step": 1})
    assert [path.name for path in tmp_path.iterdir()] == ["c"]


def test_metadata_that_is_not_json_keeps_the_old_checkpoint(tmp_path: Path) -> None:
    """Found out after the old one was removed, the run would have nothing to resume from."""
    checkpoints.save(tmp_path / "c", {}, {"step": 0})
    with pytest.raises(TypeError):
        checkpoints.save(tmp_path / "c", {}, {"step": object()})
    assert checkpoints.load(tmp_path / "c")[1] == {"step": 0}


def _edit(name: str, change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        (folder / name).write_bytes(change((folder / name).read_bytes()))

    return damage


def _manifest(**changes: object) -> Callable[[Path], None]:
    return _edit("checkpoint.json", lambda data: json.dumps(json.loads(data) | changes).encode())


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (lambda folder: (folder / "weights.safetensors").unlink(), "weights.safetensors"),
        (lambda folder: (folder / "checkpoint.json").unlink(), "checkpoint.json"),
        (_edit("weights.safetensors", lambda data: data[:-1]), "truncated or altered"),
        (
            _edit("weights.safetensors", lambda data: data[:-1] + bytes([data[-1] ^ 1])),
            "truncated or altered",
        ),
        (_edit("checkpoint.json", lambda data: data[:-2]), "is not JSON"),
        (_edit("checkpoint.json", lambda data: b"[]"), "has format None"),
        (_edit("checkpoint.json", lambda data: b"\xff"), "is not JSON"),
        (_manifest(format=2), "has format 2, this version reads 1"),
        (_manifest(metadata={"step": 2}), "metadata that was altered"),
        (_manifest(sha256=None), "truncated or altered"),
    ],
)
def test_damage_is_named_instead_of_loaded(tmp_path: Path, damage: Callable[[Path], None], named: str) -> None:
    """One flipped bit loads without complaint and only shows as a worse recall."""
    checkpoints.save(tmp_path / "c", {"w": torch.ones(3)}, {"step": 1})
    damage(tmp_path / "c")
    with pytest.raises(CorruptArtifact, match=named) as caught:
        checkpoints.load(tmp_path / "c")
    assert str(tmp_path / "c") in str(caught.value)
    assert "restore it from a copy" in str(caught.value)
