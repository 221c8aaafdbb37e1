"""Checkpoints come back as they were saved, or not at all."""

import contextlib
import json
import multiprocessing
import random
import resource
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.errors import CorruptArtifact, ScenetuneError
from storage.files import checkpoints
from tests.checkpoint_writer import write_on

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
    folder = tmp_path_factory.mktemp("round") / "run"
    checkpoints.save(folder, 1, tensors, metadata)
    loaded, stored = checkpoints.last(folder)
    assert stored == metadata
    assert loaded.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert loaded[name].dtype == tensor.dtype
        assert torch.equal(loaded[name], tensor)


def test_tied_transposed_and_trained_tensors_round_trip(tmp_path: Path) -> None:
    """BERT ties its decoder to its embeddings: safetensors refuses shared memory unless it is copied."""
    weight = torch.randn(3, 4, requires_grad=True)
    tensors = {"embedding": weight, "decoder": weight, "view": weight[1:], "transposed": weight.T}
    checkpoints.save(tmp_path / "run", 1, tensors, {})
    loaded, _ = checkpoints.last(tmp_path / "run")
    for name, tensor in tensors.items():
        assert torch.equal(loaded[name], tensor)
        assert not loaded[name].requires_grad


def saved(folder: Path, *steps: int) -> Path:
    """Return a run's folder with a checkpoint saved at each step."""
    for step in steps:
        checkpoints.save(folder, step, {"w": torch.full((3,), float(step))}, {"step": step})
    return folder


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_newest_two_checkpoints_are_kept(tmp_path: Path) -> None:
    """All of them would fill the disk; one alone would be the run's only hope."""
    folder = saved(tmp_path / "run", 5, 30, 90)
    assert names(folder) == ["step-000030", "step-000090"]
    saved(folder, 1_000_000, 2_000_000)
    assert names(folder) == ["step-1000000", "step-2000000"]
    loaded, metadata = checkpoints.last(folder)
    assert (loaded["w"].tolist(), metadata) == ([2e6] * 3, {"step": 2_000_000})


def test_saving_a_step_again_replaces_its_checkpoint(tmp_path: Path) -> None:
    """Weights of one attempt beside the metadata of another would resume from nowhere."""
    folder = saved(tmp_path / "run", 7)
    checkpoints.save(folder, 7, {"w": torch.zeros(3)}, {"again": True})
    loaded, metadata = checkpoints.last(folder)
    assert (loaded["w"].tolist(), metadata) == ([0.0] * 3, {"again": True})
    assert names(folder) == ["step-000007"]


def test_metadata_that_is_not_json_keeps_the_checkpoints_before(tmp_path: Path) -> None:
    """Found out after the old one was removed, the run would have nothing to resume from."""
    folder = saved(tmp_path / "run", 1)
    with pytest.raises(TypeError):
        checkpoints.save(folder, 2, {}, {"step": object()})
    assert names(folder) == ["step-000001"]


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
        (_manifest(metadata={"step": 9}), "metadata that was altered"),
        (_manifest(sha256=None), "truncated or altered"),
    ],
)
def test_damage_is_named_instead_of_loaded(tmp_path: Path, damage: Callable[[Path], None], named: str) -> None:
    """One flipped bit loads without complaint and only shows as a worse recall."""
    folder = saved(tmp_path / "run", 1, 2)
    damage(folder / "step-000002")
    with pytest.raises(CorruptArtifact, match=named) as caught:
        checkpoints.last(folder)
    assert str(folder / "step-000002") in str(caught.value)
    assert "an earlier checkpoint must not stand in for it: restore it from a copy" in str(caught.value)


def test_a_run_without_checkpoints_has_no_last_one_and_starts_anew(tmp_path: Path) -> None:
    """A teacher of random weights would be distilled without an error."""
    assert checkpoints.newest_valid(tmp_path / "run") is None
    with pytest.raises(CorruptArtifact, match="run holds no checkpoint: restore"):
        checkpoints.last(tmp_path / "run")


def test_resuming_skips_and_removes_what_is_damaged_and_half_done(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A run killed while its disk filled up must resume from what is left, and write the rest again."""
    folder = saved(tmp_path / "run", 30, 90)
    for draft in (".step-000270.0123456789ab.new", ".step-000005.ba9876543210.old"):
        shutil.copytree(folder / "step-000030", folder / draft)
    (folder / "notes.txt").write_text("the user's own")
    weights = folder / "step-000090" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    found = checkpoints.newest_valid(folder)
    assert found is not None
    assert found[1] == {"step": 30}
    assert names(folder) == ["notes.txt", "step-000030"]
    assert f"{weights} was truncated or altered" in caplog.text
    saved(folder, 90)
    assert checkpoints.last(folder)[1] == {"step": 90}
    for step in (30, 90):
        (folder / f"step-{step:06d}" / "checkpoint.json").unlink()
    assert checkpoints.newest_valid(folder) is None
    assert names(folder) == ["notes.txt"]


def test_a_checkpoint_of_another_version_is_not_taken_for_damaged(tmp_path: Path) -> None:
    """Started by mistake, an old version would delete what the new one has trained."""
    folder = saved(tmp_path / "run", 30, 90)
    _manifest(format=2)(folder / "step-000090")
    with pytest.raises(CorruptArtifact, match="format 2, this version reads 1: use the version"):
        checkpoints.newest_valid(folder)
    assert names(folder) == ["step-000030", "step-000090"]


@pytest.mark.parametrize("size", [100, 20_000])
def test_a_disk_that_is_full_is_named_and_keeps_the_checkpoints_before(tmp_path: Path, size: int) -> None:
    """Half a checkpoint left on a full disk keeps it full, and taken for whole it ends the run."""
    folder = saved(tmp_path / "run", 1, 2)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    # Beyond the limit a write fails as on a full disk: Python ignores the signal. 100 bytes end in the weights, 20 000
    # in the manifest.
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        with pytest.raises(ScenetuneError) as caught:
            checkpoints.save(folder, 3, {"w": torch.ones(9)}, {"long": "x" * 30_000})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert f"cannot write {folder / 'step-000003'} (" in str(caught.value)
    assert "File too large" in str(caught.value)
    assert names(folder) == ["step-000001", "step-000002"]
    assert checkpoints.last(folder)[1] == {"step": 2}


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    """A bare OSError from deep inside would send the user looking in the wrong place."""
    (tmp_path / "file").write_text("")
    with pytest.raises(ScenetuneError, match=r"cannot write .*file/run/step-000001 \(.*permit writing"):
        saved(tmp_path / "file" / "run", 1)


def test_whenever_a_writer_is_killed_one_of_its_last_two_steps_loads(tmp_path: Path) -> None:
    """No handler runs on SIGKILL: only the order of writing, renaming and removing protects a run."""
    folder, rng, step = tmp_path / "run", random.Random(0), 0
    context = multiprocessing.get_context("forkserver")
    for _ in range(20):
        receiver, sender = context.Pipe(duplex=False)
        writer = context.Process(target=write_on, args=(folder, sender), daemon=True)
        writer.start()
        sender.close()
        step = receiver.recv()
        time.sleep(rng.uniform(0, 0.05))
        writer.kill()
        writer.join()
        with contextlib.suppress(EOFError):
            while True:
                step = receiver.recv()
        loaded, metadata = checkpoints.last(folder)
        assert metadata["step"] in (step, step + 1), "saved before it was told, or told"
        assert loaded["w"].unique().tolist() == [metadata["step"]]
    found = checkpoints.newest_valid(folder)
    assert found is not None
    assert found[1] == metadata
    assert not any(name.startswith(".") for name in names(folder))
