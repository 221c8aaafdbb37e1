"""The choice of bf16: by a measurement, the same in all workers of a machine, or by hand."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from storage.errors import InputError
from studies.model import bf16_speed
from studies.model.bf16_speed import bf16_is_faster, share_choice


@pytest.fixture(autouse=True)
def _as_new(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A process that has neither asked nor been told."""
    monkeypatch.delenv("HPO_BF16", raising=False)
    monkeypatch.setattr(bf16_speed, "_folder", [])
    bf16_speed._measured.cache_clear()
    yield
    bf16_speed._measured.cache_clear()


def test_measuring_changes_nothing_else() -> None:
    """Random numbers that a measurement used would give other weights to whoever measured."""
    threads, state = torch.get_num_threads(), torch.random.get_rng_state()
    with torch.autocast("cpu", torch.bfloat16):
        assert bf16_is_faster() == (bf16_speed._measured() >= bf16_speed.FACTOR)
    assert bf16_speed._measured() >= 0
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.random.get_rng_state(), state)


def test_workers_take_the_answer_of_the_first(tmp_path: Path) -> None:
    """One in bf16 and one in fp32 would compute everything twice, and resume each other's trials to other weights."""
    share_choice(tmp_path / "cache")
    own = bf16_is_faster()
    (path,) = (tmp_path / "cache").glob("bf16-*.json")
    assert (json.loads(path.read_text())["speedup"] >= bf16_speed.FACTOR) == own
    for speedup, answer in ((bf16_speed.FACTOR + 0.1, True), (bf16_speed.FACTOR - 0.1, False)):
        path.write_text(json.dumps({"speedup": speedup}))
        assert bf16_is_faster() == answer
    for damaged in ("", "[]", '{"speedup": "fast"}'):
        path.write_text(damaged)
        assert bf16_is_faster() == own
        assert json.loads(path.read_text())["speedup"] == bf16_speed._measured()


def test_a_place_that_takes_no_files_does_not_matter(tmp_path: Path) -> None:
    """An export is evaluated in a home that may only be read."""
    (tmp_path / "file").touch()
    share_choice(tmp_path / "file" / "cache")
    assert bf16_is_faster() == (bf16_speed._measured() >= bf16_speed.FACTOR)


def test_the_environment_chooses_instead(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Machines of two kinds in one study need one answer."""
    share_choice(tmp_path)
    for given, answer in (("1", True), ("0", False)):
        monkeypatch.setenv("HPO_BF16", given)
        assert bf16_is_faster() == answer
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setenv("HPO_BF16", "yes")
    with pytest.raises(InputError, match="HPO_BF16 = 'yes': set it to 1"):
        bf16_is_faster()
