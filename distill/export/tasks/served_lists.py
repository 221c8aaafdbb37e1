"""Ranks scenes with `StudentRecommender` in a fresh process: `python served_lists.py EXPORT REQUEST.json OUT`.

The counterpart of `distill/export/parity.py`, with our own library; `distill/export/tasks/ranking.py` runs it. The
request holds `scenes` and `k`; the output is a safetensors file with the (Q, k) positions of each scene's lists, by its
number.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from safetensors.torch import save_file

from distill.inference import Popularity, StudentRecommender


def main(export: Path, request: Path, out: Path) -> None:
    """Write the lists that a request names."""
    wanted = json.loads(request.read_text(encoding="utf-8"))
    student = StudentRecommender.load(export)
    lists = {}
    for number, scene in enumerate(wanted["scenes"]):
        support = [(history, taken) for history, taken in scene["support"]]
        counts = scene["popularity"]
        popularity = Popularity.of(scene["candidates"], counts) if counts is not None else None
        adapted = student.adapt(scene["candidates"], support, scene["products"], popularity)
        lists[str(number)] = adapted.rank(scene["histories"], wanted["k"]).items.contiguous()
    save_file(lists, out)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
