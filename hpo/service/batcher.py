"""Joins texts that several requests embed at the same time into one batch of the encoder.

A batch is what waits when the encoder becomes free: alone, a request waits for nobody, and under load batches grow by
themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from itertools import chain
from queue import Empty, SimpleQueue
from threading import Lock, Thread
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from hpo.service.refusals import Refusal
from studies.model.device import device_settings
from studies.progress import Progress

if TYPE_CHECKING:
    from distill.serving.backends import Embed

# Tokens of a text, more or less: what fills one padded batch of the encoder.
_TOKENS_PER_TEXT = 16


class _Call(NamedTuple):
    """Texts that a thread waits for."""

    texts: Sequence[str]
    vectors: Future[Tensor]


class Batcher:
    """Runs the encoder in a thread of its own, on what waits for it.

    Args:
        observe: Called with the calls and the distinct texts of each batch.
    """

    def __init__(self, observe: Callable[[int, int], None] = lambda calls, texts: None) -> None:
        self._waiting: SimpleQueue[_Call | None] = SimpleQueue()
        # Those of the requests have one each, and leave new threads with as few.
        self._threads = torch.get_num_threads()
        self._observe, self._most = observe, device_settings().serve_tokens // _TOKENS_PER_TEXT
        self._thread: Thread | None = None
        self._closed, self._closing = False, Lock()

    def wrap(self, embed: Embed) -> Embed:
        """Return what embeds in the place of `embed`; for `distill.serving.served_student.ServedStudent`."""
        self._thread = Thread(target=self._run, args=(embed,), name="encoder", daemon=True)
        self._thread.start()
        return self.embed

    def close(self) -> None:
        """End the thread, after what waits; what comes later is refused."""
        with self._closing:
            self._closed = True
            self._waiting.put(None)
        if self._thread is not None:
            self._thread.join()

    def embed(self, texts: Sequence[str], progress: Progress | None = None) -> Tensor:
        """Return the (n, D) vectors of texts; many of them go in parts, so that others get their turn between."""
        if len(texts) <= self._most:
            return self._ask(texts)
        # Of similar length, as in one large batch.
        order = sorted(range(len(texts)), key=lambda row: len(texts[row]))
        parts = []
        for at in range(0, len(order), self._most):
            parts.append(self._ask([texts[row] for row in order[at : at + self._most]]))
            if progress is not None:
                progress(min(at + self._most, len(texts)), len(texts))
        vectors = torch.cat(parts)
        found = torch.empty_like(vectors)
        found[torch.tensor(order, device=vectors.device)] = vectors
        return found

    def _ask(self, texts: Sequence[str]) -> Tensor:
        call = _Call(texts, Future())
        with self._closing:
            if self._closed:
                raise Refusal(503, "stopping", "the service is stopping; ask another, or later")
            self._waiting.put(call)
        return call.vectors.result()

    def _run(self, embed: Embed) -> None:
        torch.set_num_threads(self._threads)
        while (call := self._waiting.get()) is not None:
            calls, count = [call], len(call.texts)
            while count < self._most:
                try:
                    further = self._waiting.get_nowait()
                except Empty:
                    break
                if further is None:
                    self._waiting.put(None)
                    break
                calls.append(further)
                count += len(further.texts)
            self._encode(calls, embed)

    def _encode(self, calls: Sequence[_Call], embed: Embed) -> None:
        place = {text: row for row, text in enumerate(dict.fromkeys(chain.from_iterable(c.texts for c in calls)))}
        try:
            vectors = embed(list(place), None)
        except Exception as error:
            if len(calls) == 1:
                calls[0].vectors.set_exception(error)
                return
            # What one asks for must not fail the others.
            for call in calls:
                self._encode([call], embed)
            return
        self._observe(len(calls), len(place))
        if len(calls) == 1 and len(place) == len(calls[0].texts):
            calls[0].vectors.set_result(vectors)
            return
        for call in calls:
            call.vectors.set_result(vectors[[place[text] for text in call.texts]])
