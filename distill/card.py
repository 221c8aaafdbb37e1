"""The model card of an export: what it is, how good it is, how to open it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_CARD = """\
---
library_name: sentence-transformers
pipeline_tag: sentence-similarity
tags:
- sentence-transformers
- recommendation
- few-shot
- distilbert
- scenetune
---

# {study}

A DistilBERT of {layers} layers ({parameters:,} parameters) that turns item texts into vectors of {width} dimensions
and length 1, and a head ({head:,} parameters) that adapts from a handful of interactions to a new scene and ranks its
items. Distilled by [scenetune](https://pypi.org/project/scenetune/) from the best recommenders of the study "{study}",
which were built on `{encoder}`. Texts are cut at {max_tokens} tokens.

## How good it is

{metrics}
## How to open it

Adapting to a scene and ranking its items, with scenetune:

```python
from distill.inference import StudentRecommender

student = StudentRecommender.load("path/to/this/folder")
scene = student.adapt(candidates=["whole milk", "oat drink"], support=[(["corn flakes"], 0)])
ranking = scene.rank([["muesli"]], k=1)
```

The vectors alone, with sentence-transformers or transformers:

```python
from sentence_transformers import SentenceTransformer

vectors = SentenceTransformer("path/to/this/folder").encode(["whole milk", "oat drink"])
```

```python
from transformers import AutoModel, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("path/to/this/folder")
model = AutoModel.from_pretrained("path/to/this/folder")
inputs = tokenizer(["whole milk", "oat drink"], padding=True, truncation=True, return_tensors="pt")
hidden, mask = model(**inputs).last_hidden_state, inputs["attention_mask"][..., None]
mean = (hidden * mask).sum(1) / mask.sum(1)
vectors = mean / mean.norm(dim=1, keepdim=True)
```

`manifest.json` holds the study file, the fingerprint of its data, every figure, and the SHA-256 of each file here.
"""


def model_card(manifest: Mapping[str, Any]) -> str:
    """The README.md of an export.

    Args:
        manifest: of `distill.manifest.describe`; `metrics` as `hpo.evaluation.evaluate_all` gives it, or empty.
    """
    return _CARD.format(
        study=manifest["study"],
        layers=manifest["layers"],
        width=manifest["width"],
        parameters=manifest["parameters"]["encoder"],
        head=manifest["parameters"]["head"],
        encoder=manifest["encoder"]["name"],
        max_tokens=manifest["max_tokens"],
        metrics=_metrics(manifest["metrics"]),
    )


def _metrics(metrics: Mapping[str, Any]) -> str:
    if not metrics.get("systems"):
        return "It was not evaluated.\n"
    k = metrics["k"]
    lines = [
        f"On {metrics['scenes']} scenes that neither the search nor the distillation saw, each adapted from "
        f"{metrics['shots']} interactions; averaged over queries, then scenes, with 95 % bootstrap intervals over "
        "scenes.",
        "",
        f"| | recall@{k} | 95 % interval | NDCG@{k} | hit rate@{k} |",
        "|---|---|---|---|---|",
    ]
    for name, figures in sorted(metrics["systems"].items(), key=lambda system: system[1]["recall"]["mean"]):
        recall = figures["recall"]
        lines.append(
            f"| {name} | {recall['mean']:.3f} | {recall['low']:.3f} – {recall['high']:.3f} "
            f"| {figures['ndcg']['mean']:.3f} | {figures['hit_rate']['mean']:.3f} |"
        )
    return "\n".join(lines) + "\n" + _retention(metrics.get("retention", {}))


def _retention(retention: Mapping[str, Any]) -> str:
    kept = [
        f"{retention[name]:.1%} of {what}"
        for name, what in (
            ("recall", "the best teacher's recall"),
            ("lift", f"its lift over the best baseline that reads no text ({retention.get('baseline')})"),
        )
        if retention.get(name) is not None
    ]
    return f"\nThe student keeps {' and '.join(kept)}.\n" if kept else ""
