"""Texts per second of every way to encode with a teacher, a student and its export, for benchmarks/student.py."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch.utils.flop_counter import FlopCounterMode
from trial_cost import product_rate

from distill.inference import StudentRecommender
from distill.student import Student, TokenTower
from studies.evaluation.evaluate import encode_items
from studies.model import encoder as encoders
from studies.model.device import device
from studies.training.problem import Problem

console = Console(width=120)


def teacher_tower(problem: Problem) -> TokenTower:
    """Return the teacher's encoder as a tower over the items' texts."""
    return TokenTower(problem.encoder.model, problem.tokens).to(device())


def encoding_functions(
    problem: Problem, student: Student, folder: Path, texts: list[str], items: torch.Tensor
) -> dict[str, Callable[[], object]]:
    """Return every way to encode the same texts, by name; `folder` holds the export."""
    # Imported here: it is needed for the measurement only and takes seconds.
    from sentence_transformers import SentenceTransformer

    teacher = teacher_tower(problem)
    source, _ = encoders.locate(problem.spec.teacher)
    peer, opened = SentenceTransformer(str(source)), SentenceTransformer(str(folder))
    with_torch, with_onnx = StudentRecommender.load(folder), StudentRecommender.load(folder, "onnx")
    return {
        "teacher, our code": lambda: encode_items(teacher, items, problem.tokens.lengths),
        "student, our code": lambda: encode_items(student.tower, items, student.tower.tokens.lengths),
        "teacher, SentenceTransformer.encode": lambda: peer.encode(texts, show_progress_bar=False),
        "teacher, plain transformers": lambda: plain(problem, texts),
        "student, SentenceTransformer.encode": lambda: opened.encode(texts, show_progress_bar=False),
        "export, torch": lambda: with_torch.embed(texts),
        "export, ONNX Runtime": lambda: with_onnx.embed(texts),
    }


def speed_rows(problem: Problem, student: Student, folder: Path, count: int, rounds: int) -> list[dict[str, Any]]:
    """Measure every way to encode in turns; return the texts per second of ours against each peer."""
    texts = list(problem.data.texts)[:: max(1, len(problem.data.texts) // count)][:count]
    items = torch.arange(len(problem.data.texts))[:: max(1, len(problem.data.texts) // count)][:count]
    ways = encoding_functions(problem, student, folder, texts, items)
    times: dict[str, list[float]] = {name: [] for name in ways}
    peaks: list[float] = []
    for number in range(rounds + 1):
        peaks.append(product_rate())  # in turns as well: a busy machine slows all
        for name, way in ways.items():
            started = time.perf_counter()
            way()
            if number:  # the first round warms up
                times[name].append(time.perf_counter() - started)
    rate = {name: len(texts) / statistics.median(seconds) for name, seconds in times.items()}
    pairs = [
        ("student, our code", "teacher, our code"),
        *((ours, peer) for ours in ("export, torch", "export, ONNX Runtime")
          for peer in ("teacher, SentenceTransformer.encode", "teacher, plain transformers")),
        ("student, SentenceTransformer.encode", "teacher, SentenceTransformer.encode"),
    ]  # fmt: skip
    peak = statistics.median(peaks)
    teacher = teacher_tower(problem)
    for name, tower in (("teacher", teacher), ("student", student.tower)):
        with FlopCounterMode(display=False) as counter:
            encode_items(tower, items, tower.tokens.lengths)
        fraction = counter.get_total_flops() / len(texts) * rate[f"{name}, our code"] / peak
        flops = f"{counter.get_total_flops() / len(texts) / 1e6:.1f} MFLOP a text"
        console.print(f"{name}: {flops}, {fraction:.0%} of the {peak / 1e9:.0f} GFLOP/s of one large product")
    return [row("encode texts", rate[ours], peer, rate[peer], "texts/s", what=ours) for ours, peer in pairs]


@torch.no_grad()
def plain(problem: Problem, texts: list[str]) -> None:
    """Encode with the teacher as its model card does: batches of 32 in the given order, padded to the longest."""
    tokenizer, model = problem.encoder.tokenizer, problem.encoder.model
    for first in range(0, len(texts), 32):
        inputs = tokenizer(texts[first : first + 32], padding=True, truncation=True, return_tensors="pt").to(device())
        hidden, mask = model(**inputs).last_hidden_state, inputs["attention_mask"][..., None]
        torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1)


def row(measure: str, ours: float, peer: str, value: float, unit: str, **more: Any) -> dict[str, Any]:
    """Return an entry of --json."""
    return {
        "measure": measure,
        "ours": ours,
        "peer": peer,
        "peer_value": value,
        "ratio": ours / value,
        "unit": unit,
        **more,
    }
