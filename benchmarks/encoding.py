"""Encoding a catalogue: ours against `SentenceTransformer.encode`, on the same texts, model and machine.

    python benchmarks/encoding.py [--quick] [--json FILE]

Ours batches by length within a token budget and uses bf16 where the hardware has it; the peer is called as its
documentation shows, then with its own bf16. Runs alternate, medians are reported; the vectors are compared first.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from sentence_transformers import SentenceTransformer

from storage.files.atomic import atomic_write
from storage.home import cache_folder
from studies.config.definition import TeacherSection
from studies.config.spec import load_spec
from studies.data.loading import load_data
from studies.model import encoder as encoders
from studies.model.activation_cache import ActivationCache


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def load_texts() -> tuple[str, ...]:
    """The quickstart's texts."""
    spec = load_spec(Path("studies/quickstart.toml"))
    return load_data(spec.data, spec.protocol, cache_folder()).texts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="about a minute instead of ten")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    arguments = parser.parse_args()
    count, rounds = (1024, 3) if arguments.quick else (8192, 5)

    texts = load_texts()
    texts = texts[:: max(1, len(texts) // count)][:count]
    teacher = TeacherSection()
    ours = encoders.load(teacher)
    folder, _ = encoders.locate(teacher)
    plain = SentenceTransformer(str(folder))
    half = SentenceTransformer(str(folder), model_kwargs={"dtype": torch.bfloat16})
    tokens = encoders.tokenize(ours.tokenizer, texts, teacher.max_tokens)

    def encode() -> torch.Tensor:
        with tempfile.TemporaryDirectory() as cache:
            built = ActivationCache(Path(cache), ours, tokens)
            built.build([0])
            return built.pooled().clone()

    peers = {"SentenceTransformer.encode, fp32": plain, "SentenceTransformer.encode, bf16": half}
    reference = torch.as_tensor(plain.encode(list(texts)))
    cosine = (encode() * reference).sum(1).min().item()
    print(
        f"{len(texts)} texts, {tokens.lengths.float().mean():.1f} tokens each; lowest cosine to the peer {cosine:.4f}"
    )
    times: dict[str, list[float]] = {name: [] for name in ("ours", *peers)}
    for _ in range(rounds):
        times["ours"].append(seconds(encode))
        for name, model in peers.items():
            times[name].append(seconds(lambda model=model: model.encode(list(texts), show_progress_bar=False)))
    rate = {name: len(texts) / statistics.median(values) for name, values in times.items()}
    report(rate, list(peers), arguments.json)


def report(rate: dict[str, float], peers: list[str], json_file: Path | None) -> None:
    """Print the texts per second of ours against each peer; write them as JSON."""
    rows = [
        {
            "measure": "encode texts",
            "ours": rate["ours"],
            "peer": name,
            "peer_value": rate[name],
            "ratio": rate["ours"] / rate[name],
            "unit": "texts/s",
        }
        for name in peers
    ]
    for row in rows:
        print(f"ours {row['ours']:.0f} texts/s, {row['peer']} {row['peer_value']:.0f}: {row['ratio']:.2f}x")
    if json_file:
        atomic_write(json_file, json.dumps(rows, indent=2).encode())


if __name__ == "__main__":
    main()
