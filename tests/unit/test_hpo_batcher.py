"""Texts that several threads embed at once are read in one batch, each thread gets its own, and no fault spreads."""

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from hpo.service.batcher import Batcher
from hpo.service.refusals import Refusal
from storage.errors import InputError


class Encoder:
    """Embeds a text as its length; the first batch waits until it may go on."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.started, self.goes_on = threading.Event(), threading.Event()

    def __call__(self, texts: Sequence[str], progress: object) -> torch.Tensor:
        """Embeds."""
        self.batches.append(list(texts))
        self.started.set()
        assert self.goes_on.wait(30)
        if "bad" in texts:
            raise InputError("a bad text")
        return torch.tensor([[float(len(text))] for text in texts]).reshape(-1, 1)


def test_what_waits_is_read_in_one_batch_and_a_bad_text_fails_its_own_call_alone() -> None:
    """Without joining, 64 clients wait for 64 passes; and one client's error must not be another's answer."""
    encoder, sizes = Encoder(), []
    batcher = Batcher(lambda calls, texts: sizes.append((calls, texts)))
    embed = batcher.wrap(encoder)
    with ThreadPoolExecutor(20) as pool:
        first = pool.submit(embed, ["a"], None)
        assert encoder.started.wait(30)
        asked = [["b" * n, "cc", "b" * n] for n in range(1, 9)]
        found = [pool.submit(embed, texts, None) for texts in asked]
        while batcher._waiting.qsize() < len(asked):
            pass
        encoder.goes_on.set()
        assert first.result().tolist() == [[1.0]]
        assert [each.result()[:, 0].tolist() for each in found] == [[n, 2, n] for n in range(1, 9)]
        assert sizes == [(1, 1), (8, 9)], "eight calls hold nine distinct texts"
        encoder.goes_on.clear()
        encoder.started.clear()
        pool.submit(embed, ["a"], None)
        assert encoder.started.wait(30)
        bad, good = pool.submit(embed, ["bad"], None), pool.submit(embed, ["good"], None)
        while batcher._waiting.qsize() < 2:
            pass
        encoder.goes_on.set()
        assert good.result().tolist() == [[4.0]]
        with pytest.raises(InputError, match="a bad text"):
            bad.result()
    batcher.close()
    with pytest.raises(Refusal, match="the service is stopping"):
        embed(["a"], None)


def test_many_texts_go_in_parts_and_come_back_in_order() -> None:
    """A catalogue must not hold up those who rank; its rows must not be mixed up."""
    encoder, reached = Encoder(), []
    encoder.goes_on.set()
    batcher = Batcher()
    texts = ["x" * (n * 7 % 300) for n in range(1000)]
    found = batcher.wrap(encoder)(texts, lambda done, total: reached.append((done, total)))
    assert found[:, 0].tolist() == [len(text) for text in texts]
    assert max(map(len, encoder.batches)) <= batcher._most < len(texts)
    assert reached[-1] == (1000, 1000)
    assert batcher.embed([]).shape == (0, 1)
    batcher.close()
