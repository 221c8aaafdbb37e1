"""Preparing a large shop: ours against pandas, on the same files.

    python benchmarks/data_loading.py [--quick] [--json FILE]

Five million interactions and 200 k items, as parquet and as CSV. Ours reads, codes, checks and caches them, cuts the
scenes and samples all episodes; a second start takes them from the cache. The peer does the reading and coding alone.
Every figure is of a process of its own, which tells its time and its peak memory.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from storage.files.atomic import atomic_write

STUDY = """
name = "large"
[data]
source = "files"
interactions = "log.{suffix}"
items = "items.{suffix}"
user = "user"
item = "product"
time = "time"
scene = "category"
text = "title"
"""


def write_shop(folder: Path, interactions: int, items: int) -> None:
    rng = np.random.default_rng(0)
    products = np.arange(items)
    catalogue = pl.DataFrame(
        {
            "product": products,
            "category": [f"category {n}" for n in rng.integers(0, 300, items)],
            "title": [f"product number {n} of brand {n % 977}" for n in products],
        }
    )
    # Popularity falls like a power of the rank, as in shops.
    taken = np.minimum((rng.pareto(0.9, interactions) * 300).astype(np.int64), items - 1)
    log = pl.DataFrame(
        {
            "user": rng.integers(0, interactions // 25, interactions),
            "product": rng.permutation(products)[taken],
            "time": 1_600_000_000 + rng.integers(0, 365 * 86_400, interactions),
        }
    )
    log.write_parquet(folder / "log.parquet")
    log.write_csv(folder / "log.csv")
    catalogue.write_parquet(folder / "items.parquet")
    catalogue.write_csv(folder / "items.csv")
    for suffix in ("parquet", "csv"):
        (folder / f"{suffix}.toml").write_text(STUDY.format(suffix=suffix))


def prepare(folder: Path, suffix: str) -> int:
    """Everything before texts are encoded; returns the number of rows."""
    from studies.config.spec import load_spec
    from studies.data import loading
    from studies.episodes.audit import audit_data, refuse_leaks
    from studies.episodes.sampler import EpisodeSampler
    from studies.episodes.split import SPLIT_NAMES, split_scenes

    spec = load_spec(folder / f"{suffix}.toml")
    data = loading.load_data(spec.data, spec.protocol, folder / f"cache-{suffix}")
    parts = split_scenes(data, spec.protocol)
    refuse_leaks(audit_data(data, parts))
    sampler = EpisodeSampler(data, parts, spec.protocol)
    for part in SPLIT_NAMES:
        sampler.sample(part)
    return len(loading.read_source(spec.data, folder / f"cache-{suffix}").time)


def prepare_with_pandas(folder: Path, suffix: str) -> int:
    """Reading, joining, coding and sorting alone, as a notebook would."""
    import pandas as pd

    read = {"parquet": pd.read_parquet, "csv": pd.read_csv}[suffix]
    log, items = read(folder / f"log.{suffix}"), read(folder / f"items.{suffix}")
    items["item"] = items["title"].rank(method="dense").astype("int64") - 1
    rows = log.merge(items[["product", "item", "category"]], on="product")
    rows["user"] = rows["user"].astype(str).astype("category").cat.codes
    rows["scene"] = rows["category"].astype("category").cat.codes
    rows = rows[["user", "item", "scene", "time"]].drop_duplicates()
    return len(rows.sort_values(["time", "user", "item", "scene"]))


def measured(work: str, folder: Path, suffix: str) -> dict[str, Any]:
    """Runs one piece of work in a process of its own."""
    command = [sys.executable, __file__, "--work", work, str(folder), suffix]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def work(name: str, folder: Path, suffix: str) -> None:
    import resource

    started = time.perf_counter()
    rows = {"ours": prepare, "pandas": prepare_with_pandas}[name](folder, suffix)
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"rows": rows, "seconds": seconds, "peak_mib": peak}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="half a million interactions")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    parser.add_argument("--work", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work:
        work(arguments.work[0], Path(arguments.work[1]), arguments.work[2])
        return
    interactions, items = (500_000, 20_000) if arguments.quick else (5_000_000, 200_000)
    figures = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_shop(folder, interactions, items)
        for suffix in ("parquet", "csv"):
            pandas = measured("pandas", folder, suffix)
            for start in ("first start", "second start"):
                ours = measured("ours", folder, suffix)
                assert ours["rows"] == pandas["rows"], "the two disagree on what the files hold"
                for key, unit in (("seconds", "s"), ("peak_mib", "MiB")):
                    figures.append(
                        {
                            "measure": f"{suffix}, {interactions:,} interactions, {start}: {key.partition('_')[0]}",
                            "ours": ours[key],
                            "peer": "pandas, reading and coding alone",
                            "peer_value": pandas[key],
                            "ratio": pandas[key] / ours[key],
                            "unit": unit,
                        }
                    )
    for row in figures:
        print(
            f"{row['measure']}: ours {row['ours']:.1f} {row['unit']}, {row['peer']} {row['peer_value']:.1f}: "
            f"{row['ratio']:.2f}x less"
        )
    if arguments.json:
        atomic_write(arguments.json, json.dumps(figures, indent=2).encode())


if __name__ == "__main__":
    main()
