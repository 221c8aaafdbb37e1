"""What is done differently on a CPU and on a GPU, and how a run overrides it."""

from contextlib import suppress
from dataclasses import asdict

import pytest
import torch

from studies.model.device import (
    CPU,
    CUDA,
    autocast,
    cores,
    device,
    device_settings,
    full_precision,
    override_settings,
    share_cores,
    uses_bf16,
)


def product() -> torch.dtype:
    with autocast():
        return (torch.ones(2, 2, device=device()) @ torch.ones(2, 2, device=device())).dtype


def test_the_device_in_use_has_its_own_settings() -> None:
    """Those of the other kind would be slow, or take attention that has no second derivative."""
    assert device_settings() == {"cpu": CPU, "cuda": CUDA}[device().type]


def test_overridden_settings_hold_within_the_block_alone() -> None:
    """A comparison of alternatives must not change what runs after it, even where one of them fails."""
    before = device_settings()
    with override_settings(serve_tokens=7):
        with suppress(RuntimeError), override_settings(encode_tokens=5):
            assert asdict(device_settings()) == asdict(before) | {"serve_tokens": 7, "encode_tokens": 5}
            raise RuntimeError
        assert asdict(device_settings()) == asdict(before) | {"serve_tokens": 7}
    assert device_settings() == before


def test_bf16_is_overridden_and_full_precision_overrules_it() -> None:
    """Published vectors stay reproducible whatever is measured."""
    with override_settings(bf16=True):
        assert uses_bf16()
        assert product() == torch.bfloat16
        with full_precision():
            assert not uses_bf16()
            assert product() == torch.float32
    with override_settings(bf16=False):
        assert product() == torch.float32


@pytest.mark.parametrize(
    ("said", "workers", "threads", "wanted"),
    [("", 1, None, cores()), ("1", 1, None, 1), ("999", 1, None, cores()), ("1", 1, 3, 3), ("2,1", cores(), None, 1)],
)
def test_threads_are_a_part_of_the_cores_and_no_more_than_the_environment_allows(
    monkeypatch: pytest.MonkeyPatch, said: str, workers: int, threads: int | None, wanted: int
) -> None:
    """A container sees all cores of its machine, whatever part of them is its own; `--threads` overrules both."""
    monkeypatch.setenv("OMP_NUM_THREADS", said)
    share_cores(workers, threads)
    assert torch.get_num_threads() == wanted
