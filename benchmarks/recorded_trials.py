"""Writes the trials that searches of a task start from where no older study is named, from recorded curves.

    python benchmarks/recorded_trials.py benchmarks/curves/products.parquet

They go to hpo/search/recorded_trials.json: each configuration with its recall at the end, on other draws of the
validation episodes than the curves; 0 where training diverged.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from replay.curves import recorded

from hpo.search.warm_start import RECORDED
from storage.files.atomic import atomic_write


def main() -> None:
    """Write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("curves", type=Path, metavar="FILE", help="what record_curves.py wrote")
    curves = recorded(parser.parse_args().curves)
    recalls = np.nan_to_num(curves.redrawn.mean(1)).round(4).tolist()
    rows = [json.dumps([short(values), recall]) for values, recall in zip(curves.parameters, recalls, strict=True)]
    text = '{"new classes": [\n' + ",\n".join(rows) + "\n]}\n"
    atomic_write(RECORDED, text.encode())


def short(values: dict[str, object]) -> dict[str, object]:
    """A configuration with four digits of every number."""
    return {name: float(f"{value:.4g}") if isinstance(value, float) else value for name, value in values.items()}


if __name__ == "__main__":
    main()
