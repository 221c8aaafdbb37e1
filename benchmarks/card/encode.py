"""Encoding: texts/s of teacher and student in every precision, attention and way of batching, beside the peer."""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from card.figures import Figures
from card.roofline import count_flops, median_seconds, peak, weight_bytes
from card.trace import top_operators
from studies.model.encoder import Ragged, by_length, run_layers
from studies.model.pooling import pool
from studies.training.problem import Problem

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
BUDGETS = {"cpu": (2048,), "cuda": (8192, 32768, 131072)}
# Compiling takes about 20 s: in one precision, for one size of batch.
COMPILED = ("fp16", 32768)
QUICK_TEXTS = 64
PEER = "SentenceTransformer.encode, teacher, fp16"


class Way(NamedTuple):
    """One way to encode.

    Attributes:
        precision: Of weights and products.
        attention: "eager", "sdpa", or "varlen": texts end to end, without padding.
        batching: "length" (similar lengths within a budget), "padded" (the texts' order), "fixed" (of one shape).
        budget: Padded tokens of a batch.
        compiled: Mode of `torch.compile`; "reduce-overhead" captures CUDA graphs; "" leaves the model as it is.
    """

    precision: str
    attention: str
    batching: str
    budget: int
    compiled: str = ""


def ways(device: torch.device, quick: bool) -> Iterator[Way]:
    """Yield the ways to try on a device."""
    kinds = [("sdpa", "length", ""), ("eager", "length", ""), ("sdpa", "padded", "")]
    if device.type == "cuda":
        kinds += [("sdpa", "length", "default"), ("sdpa", "fixed", "reduce-overhead")]
        if importlib.util.find_spec("torch.nn.attention.varlen"):
            kinds.append(("varlen", "length", ""))
    for precision in ("fp32",) if quick else DTYPES:
        for attention, batching, compiled in kinds:
            for budget in BUDGETS[device.type]:
                possible = attention != "varlen" or precision != "fp32"
                if possible and (not compiled or (precision, budget) == COMPILED):
                    yield Way(precision, attention, batching, budget, compiled)


class Reader:
    """A BERT run in one way.

    Args:
        model: The encoder; it is converted in place.
        tokens: The texts.
        way: How it runs.
        device: Where it runs.
    """

    def __init__(self, model: Any, tokens: Ragged, way: Way, device: torch.device) -> None:
        self.model, self.tokens, self.device = model.to(device, DTYPES[way.precision]), tokens, device
        self.batches = batches_of(way, tokens.lengths)
        for layer in model.encoder.layer:
            layer.attention.self.config._attn_implementation = "eager" if way.attention == "eager" else "sdpa"
        self._encode: Callable[[Tensor], Tensor] = self._packed if way.attention == "varlen" else self._padded
        self._run: Callable[[Tensor, Tensor], Tensor] = self._layers
        if way.compiled:
            self._run = torch.compile(self._layers, dynamic=way.batching != "fixed", mode=way.compiled)

    @torch.inference_mode()
    def __call__(self) -> Tensor:
        """Return the vectors of all batches, one below the other."""
        return torch.cat([self._encode(rows) for rows in self.batches])

    def vectors(self) -> Tensor:
        """Return (n, D) vectors in the order of the texts, in fp32 on the CPU."""
        found, order = self().float().cpu(), torch.cat(self.batches)
        placed = found.new_empty(len(self.tokens), found.shape[1])
        placed[order] = found
        return placed

    def _padded(self, rows: Tensor) -> Tensor:
        # A captured graph's output is overwritten by the next run.
        return self._run(*self.tokens.padded(rows, self.device)).clone()

    def _layers(self, ids: Tensor, mask: Tensor) -> Tensor:
        return pool(run_layers(self.model.encoder.layer, self.model.embeddings(input_ids=ids), mask), mask)

    def _packed(self, rows: Tensor) -> Tensor:
        """Encode texts end to end: every product without padding, attention within each text."""
        from torch.nn.attention.varlen import varlen_attn

        chosen = self.tokens.rows(rows)
        lengths, ends = chosen.lengths.to(self.device), chosen.offsets.to(self.device, torch.int32)
        longest = int(chosen.lengths.max())
        within = torch.cat([torch.arange(int(length)) for length in chosen.lengths]).to(self.device)
        ids = chosen.values.to(self.device)
        hidden = self.model.embeddings(input_ids=ids[None], position_ids=within[None])[0]
        for layer in self.model.encoder.layer:
            own = layer.attention.self
            heads = (own.num_attention_heads, own.attention_head_size)
            query, key, value = (part(hidden).unflatten(1, heads) for part in (own.query, own.key, own.value))
            context = varlen_attn(query, key, value, ends, ends, longest, longest)
            attended = layer.attention.output(context.flatten(1), hidden)
            hidden = layer.output(layer.intermediate(attended), attended)
        owner = torch.repeat_interleave(torch.arange(len(lengths), device=self.device), lengths)
        sums = torch.zeros(len(lengths), hidden.shape[1], device=self.device).index_add_(0, owner, hidden.float())
        return functional.normalize(sums / lengths[:, None], dim=-1)


def batches_of(way: Way, lengths: Tensor) -> list[Tensor]:
    """Return the batches of rows of one way."""
    if way.batching == "length":
        return list(by_length(lengths, way.budget))
    size = max(1, way.budget // int(lengths.max()))
    if way.batching == "padded":
        return list(torch.arange(len(lengths)).split(size))
    # For CUDA graphs: texts of similar length, the last batch filled up with the first of its rows.
    order = torch.argsort(lengths, descending=True, stable=True)
    return list(torch.cat([order, order[-1:].expand(-len(order) % size)]).split(size))


def measure(problem: Problem, figures: Figures, device: torch.device, *, quick: bool) -> None:
    """Add texts/s of the teacher and of a student of one layer, in every way.

    Args:
        problem: Gives encoder and texts.
        figures: Where they go.
        device: Where it runs.
        quick: A rehearsal.
    """
    count = QUICK_TEXTS if quick else len(problem.tokens)
    tokens, texts = problem.tokens.rows(torch.arange(count)), list(problem.data.texts[:count])
    peer_value = peer_rate(problem.spec.teacher.encoder, texts, device, quick=quick)
    for name, layers in (("teacher", problem.encoder.layers), ("student of one layer", 1)):
        model = first_layers(problem.encoder.model, layers)
        flops = count_flops(Reader(copy.deepcopy(model), tokens, Way("fp32", "eager", "length", 8192), device))
        reference = Reader(copy.deepcopy(model), tokens, Way("fp32", "eager", "length", 8192), device).vectors()
        for way in ways(device, quick):
            label = f"encode, {name}, {', '.join(map(str, way))}".removesuffix(", ")
            with figures.attempt(label):
                _measure(
                    Reader(copy.deepcopy(model), tokens, way, device),
                    way,
                    reference,
                    flops,
                    label,
                    figures,
                    peer_value,
                    quick,
                )


def _measure(
    reader: Reader,
    way: Way,
    reference: Tensor,
    flops: int,
    label: str,
    figures: Figures,
    peer_value: float,
    quick: bool,
) -> None:
    cosine = float((reader.vectors() * reference).sum(1).min())
    seconds = median_seconds(reader, reader.device, 1 if quick else 5)
    moved = weight_bytes(list(reader.model.encoder.parameters())) * len(reader.batches)
    figures.add(
        label,
        "texts/s",
        len(reference) / seconds,
        PEER,
        peer_value,
        roofline=peak(reader.device).share(flops, moved, DTYPES[way.precision], seconds),
        lowest_cosine=cosine,
        operators=top_operators(reader, reader.device),
    )


def peer_rate(folder: str, texts: Sequence[str], device: torch.device, *, quick: bool) -> float:
    """Return texts/s of `SentenceTransformer.encode` of the teacher in fp16, as its documentation calls it."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(folder, device=str(device), model_kwargs={"dtype": torch.float16})

    def encode() -> object:
        return model.encode(list(texts), show_progress_bar=False, convert_to_tensor=True)

    return len(texts) / median_seconds(encode, device, 1 if quick else 5)


def first_layers(teacher: Any, layers: int) -> Any:
    """Return a copy of the first layers of a BERT, in fp32 on the CPU: what a student of that depth costs."""
    small = copy.deepcopy(teacher).cpu().float()
    small.encoder.layer = nn.ModuleList(list(small.encoder.layer)[:layers])
    return small
