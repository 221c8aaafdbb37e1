"""Serving: p50 and p99 of adapting with five shots and ranking 1,000 and 100,000 items, on every backend of an export.

    python benchmarks/adapt_and_rank.py [--export DIR] [--quick] [--json FILE]

A catalogue is embedded once; a request adapts to five interactions and ranks all of it for one user. Histories hold
twenty texts of the catalogue; under "unknown item" the one who asks has also had one that it lacks, which is encoded on
the way. "First request" says how encoding, adapting and ranking share the time where nothing was embedded before.

Without --export the student is two untrained layers of the bundled MiniLM on Complete Journey's texts: it costs what a
trained one does. Other learners than the export's own are measured under an untrained head. Only as many texts are
encoded as give a rate; beyond them, texts are numbered and vectors are noise, which costs the same to rank.
"""

from __future__ import annotations

import argparse
import copy
import json
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from students.origin import origin_of
from torch import nn

from distill.export.tasks.ranking import RankingExport
from distill.export.writer import export
from distill.hyperparameters import StudentHyperparameters
from distill.inference import StudentRecommender, load_export
from distill.serving.backends import Embedder, open_encoder
from distill.serving.ranking.catalogue import Catalogue
from distill.serving.ranking.items import StudentParts
from distill.student import start, texts_in
from storage.files.atomic import atomic_write
from storage.home import cache_folder
from studies.config.hyperparameters import HEAD_PARTS, HeadPart, Hyperparameters
from studies.config.spec import load_spec
from studies.learners.registry import RANKING_LEARNERS
from studies.learners.tasks.scene_tasks import scene_learner
from studies.model.device import device
from studies.model.recommender import Head, Recommender
from studies.training.prepare import prepare

SHOTS, HISTORY, TARGET_MS = 5, 20, 5.0


def untrained(folder: Path) -> Path:
    """Exports a student of the shape that Complete Journey's study asks for, in every format."""
    problem = prepare(load_spec(Path("studies/completejourney.toml")), cache_folder())
    learner = problem.learner(Hyperparameters("protonet"))
    texts = texts_in(problem, "catalogue")
    values = StudentHyperparameters(layers=2)
    student = start(problem, learner, texts, values)
    (folder / "texts.json").write_text(json.dumps(problem.data.texts))
    return export(
        student,
        RankingExport.of(problem),
        folder / "student",
        origin_of(problem, "untrained"),
        formats=["hf", "onnx", "onnx-int8"],
    )


def texts_of(folder: Path | None) -> list[str]:
    """Complete Journey's texts: as the untrained student's study has them, or read anew."""
    if folder is not None:
        found: list[str] = json.loads((folder / "texts.json").read_text())
        return found
    from studies.data.loading import load_data

    spec = load_spec(Path("studies/completejourney.toml"))
    return list(load_data(spec.data, spec.protocol, cache_folder()).texts)


def grown(texts: Sequence[str], count: int) -> list[str]:
    """`count` distinct texts: the given ones, then the same with a number behind them."""
    rounds = -(-count // len(texts))
    return [text if n == 0 else f"{text}, no. {n}" for n in range(rounds) for text in texts][:count]


def other_learner(name: str, width: int, part: HeadPart = "all") -> Any:
    """A learner of that name with an untrained head, of which a part trains and adapts."""
    inner = {"inner_lr": 0.05, "inner_steps": 3} if RANKING_LEARNERS[name].takes_gradient_steps else {}
    values = Hyperparameters(name, head=part, **inner)
    head = Head(width, learned_rates=values.entry.learns_inner_rates)
    head.train_only(values.head)
    return scene_learner(Recommender(nn.Identity(), head).to(device()), values)


def milliseconds(work: Callable[[], Any], times: int) -> tuple[float, float]:
    """p50 and p99 of some work, after a first time that does not count."""
    work()
    seconds = []
    for _ in range(times):
        started = time.perf_counter()
        work()
        if device().type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    return 1e3 * statistics.median(seconds), 1e3 * float(np.quantile(seconds, 0.99))


def encode_rate(embedder: Embedder, texts: Sequence[str]) -> dict[str, float]:
    """Texts per second, median of three, and the part of the time that cutting them into tokens takes."""
    embedder.embed(texts[:64])
    cut, _ = milliseconds(lambda: embedder.tokens(texts), 3)
    whole, _ = milliseconds(lambda: embedder.embed(texts), 3)
    return {"texts_per_second": 1e3 * len(texts) / whole, "tokenizing": cut / whole}


def measure(known: StudentParts, embedder: Embedder, texts: list[str], times: int) -> dict[str, float]:
    """The figures of one catalogue under one learner and one backend."""
    generator = torch.Generator().manual_seed(0)

    def noise(texts: Sequence[str], _: Any) -> torch.Tensor:
        if len(texts) <= HISTORY:
            return embedder.embed(texts)
        vectors = torch.randn(len(texts), embedder.width, generator=generator)
        return nn.functional.normalize(vectors, dim=1).to(device())

    started = time.perf_counter()
    catalogue = Catalogue(known._replace(embed=noise), texts)
    built = time.perf_counter() - started
    rng = np.random.default_rng(0)

    def history() -> list[str]:
        return [texts[item] for item in rng.integers(len(texts), size=HISTORY)]

    support = [(history(), int(item)) for item in rng.integers(len(texts), size=SHOTS)]
    scene, asks = catalogue.adapt(support), history()
    names = ("adapt", "rank", "both", "unknown")
    works: list[Callable[[], Any]] = [
        lambda: catalogue.adapt(support),
        lambda: scene.rank([asks]),
        lambda: catalogue.adapt(support).rank([asks]),
        lambda: scene.rank([[*asks, "an item of another shop, 500 g"]]),
    ]
    figures = {"words_seconds": built}
    for name, work in zip(names, works, strict=True):
        figures[f"{name}_p50_ms"], figures[f"{name}_p99_ms"] = milliseconds(work, times)
    figures["batch_of_64_p50_ms"], _ = milliseconds(lambda: scene.rank([asks] * 64), max(3, times // 10))
    return figures


def shares(row: dict[str, Any]) -> tuple[float, float, float]:
    """Of a request that embeds its catalogue first: the parts of encoding, adapting, ranking."""
    parts = (1e3 * row["encode_seconds"], row["adapt_p50_ms"], row["rank_p50_ms"])
    encode, adapt, rank = (part / sum(parts) for part in parts)
    return encode, adapt, rank


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--export", type=Path, metavar="DIR", help="an exported student; else an untrained one")
    parser.add_argument("--quick", action="store_true", help="a minute: fewer repetitions, fewer texts encoded")
    parser.add_argument("--items", type=int, nargs="+", default=[1_000, 100_000], help="sizes of the catalogue")
    some = ["anil", "metasgd"]
    parser.add_argument("--learners", nargs="*", default=some, choices=RANKING_LEARNERS, help="besides its own")
    parser.add_argument("--head", choices=HEAD_PARTS, default="all", help="what of the other learners' heads adapts")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.export or untrained(Path(scratch))
        texts = texts_of(None if arguments.export else Path(scratch))
        rows = list(run(folder, texts, arguments))
    table = Table(
        "backend", "learner", "items", "encode, s", "texts/s", "adapt p50/p99", "rank p50/p99", "both p50/p99",
        "64 users", "unknown item", "first request", box=None,
    )  # fmt: skip
    for row in rows:
        pairs = [f"{row[f'{name}_p50_ms']:.1f} / {row[f'{name}_p99_ms']:.1f}" for name in ("adapt", "rank", "both")]
        table.add_row(
            row["backend"],
            row["learner"],
            f"{row['items']:,}",
            f"{row['encode_seconds']:.1f}",
            f"{row['texts_per_second']:.0f}",
            *pairs,
            f"{row['batch_of_64_p50_ms']:.0f}",
            f"{row['unknown_p50_ms']:.1f}",
            " / ".join(f"{share:.1%}" for share in shares(row)),
        )
    Console(width=170).print(table)
    share = statistics.mean(row["tokenizing"] for row in rows)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"milliseconds, {torch.get_num_threads()} threads on {device()}; cutting texts takes {share:.0%} of encoding")
    print(f"peak memory of the process {peak:.1f} GiB")
    if arguments.json:
        atomic_write(arguments.json, json.dumps(rows, indent=2).encode())


def run(folder: Path, texts: list[str], arguments: argparse.Namespace) -> Any:
    """All rows: backends of the export, then other learners on the first of them."""
    exported = load_export(folder)
    formats = [name for name in ("hf", "onnx", "onnx-int8") if name in exported.manifest.formats]
    sample = texts[:: max(1, len(texts) // (256 if arguments.quick else 2048))]
    own = exported.learner.learner
    for number, name in enumerate(formats):
        backend: Any = "torch" if name == "hf" else name
        embedder = Embedder(exported, open_encoder(exported, backend, "fp32"))
        known = StudentRecommender(copy.copy(exported), backend)._parts
        rate = encode_rate(embedder, sample)
        for learner in [own, *(arguments.learners if number == 0 else [])]:
            chosen = (
                known
                if learner == own
                else known._replace(learner=other_learner(learner, embedder.width, arguments.head))
            )
            for count in arguments.items:
                times = (20 if arguments.quick else 200) if count < 10_000 else (5 if arguments.quick else 20)
                figures = measure(chosen, embedder, grown(texts, count), times)
                yield {
                    "measure": f"adapt to {SHOTS} shots and rank {count} items, {backend}, {learner}",
                    "ours": figures["both_p50_ms"],
                    "peer": "target for 1,000 items",
                    "peer_value": TARGET_MS,
                    "ratio": figures["both_p50_ms"] / TARGET_MS,
                    "unit": "ms",
                    "backend": backend,
                    "learner": learner,
                    "items": count,
                    "encode_seconds": count / rate["texts_per_second"],
                    **rate,
                    **figures,
                }


if __name__ == "__main__":
    main()
