"""The model card of an export: what it is, how good it is, how to open it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from distill.evaluation import Retention, StudyEvaluation
from distill.export.manifest import Manifest
from studies.config.definition import Format, Pooling
from studies.escaping import markdown_code, markdown_text


@dataclass(frozen=True)
class CardWords:
    """What a model card says of a task.

    Attributes:
        tag: What hubs list the model under.
        head: What the head does, behind "that".
        teachers: What the student was distilled from.
        use: What the example does.
        example: Lines of Python.
        answers: What `FormatFigures.agreement` is a share of.
        scored: What the figures are averages over; with {scenes} and {shots}.
        metrics: Columns of the table of figures beside recall, by the name of the metric; with {k}.
        library: The library that hubs show for it.
        pipeline: The task of that library's pipelines.
        classifies: How it is opened without scenetune by what classifies; "" where nothing does.
        classifies_pairs: The same of pairs of texts.
    """

    tag: str
    head: str
    teachers: str
    use: str
    example: str
    answers: str
    scored: str
    metrics: Mapping[str, str]
    library: str = "sentence-transformers"
    pipeline: str = "sentence-similarity"
    classifies: str = ""
    classifies_pairs: str = ""


_CARD = """\
---
library_name: {library}
pipeline_tag: {pipeline}
tags:
- sentence-transformers
- {tag}
- few-shot
- distilbert
- scenetune
---

# {study}

A DistilBERT of {layers} ({parameters:,} parameters) that turns item texts into vectors of {dimensions}
dimensions and length 1, and a head ({head:,} parameters) that {does}.
Distilled by [scenetune](https://pypi.org/project/scenetune/) from the best {teachers} of the study
"{study}", which were built on {encoder}. {vocabulary}{start}{prefix}Texts are cut at {max_tokens} tokens.

## How good it is

{metrics}
## What is in this folder

{formats}
{checked}

## How to open it

{use}, with scenetune:

```python
{example}```
{classifies}
The vectors alone, with {tools}:

```python
from sentence_transformers import SentenceTransformer

vectors = SentenceTransformer("path/to/this/folder").encode(["whole milk", "oat drink"])
```

```python
{transformers}```
{onnx}
`manifest.json` holds where it comes from (study file, fingerprint of the data, trial, teachers), every figure, and the
SHA-256 of each file here.
"""

_TRANSFORMERS = """\
from transformers import AutoModel, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("path/to/this/folder")
model = AutoModel.from_pretrained("path/to/this/folder")
inputs = tokenizer({texts}, padding=True, truncation=True, return_tensors="pt")
hidden, mask = model(**inputs).last_hidden_state.float(), inputs["attention_mask"][..., None]
{name} = {pooled}
"""

_POOLED: dict[Pooling, tuple[str, str]] = {
    "mean": ("mean", "(hidden * mask).sum(1) / mask.sum(1)"),
    "cls": ("first", "hidden[:, 0]"),
    "max": ("greatest", 'hidden.masked_fill(mask == 0, float("-inf")).amax(1)'),
}

_PROJECTION = """\
{name} = {name} @ load_file("path/to/this/folder/2_Dense/model.safetensors")["linear.weight"].float().T
"""

_ONNX = """
```python
import onnxruntime
from transformers import AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("path/to/this/folder")
session = onnxruntime.InferenceSession("path/to/this/folder/onnx/model.onnx")
inputs = tokenizer({texts}, padding=True, truncation=True, return_tensors="np")
{outputs}, dict(inputs))
```
"""


def model_card(manifest: Manifest) -> str:
    """Return the README.md of an export."""
    words: CardWords = manifest.kind.part("card")
    graphs = "onnx" in manifest.formats
    return _CARD.format(
        library=words.library,
        pipeline=words.pipeline,
        tag=words.tag,
        study=markdown_text(manifest.study),
        layers="1 layer" if manifest.layers == 1 else f"{manifest.layers} layers",
        dimensions=manifest.dimensions,
        parameters=manifest.parameters.encoder,
        head=manifest.parameters.head,
        does=words.head,
        teachers=words.teachers,
        encoder=markdown_code(_encoder(manifest.encoder.name)),
        vocabulary=_vocabulary(manifest.vocabulary.kept, manifest.vocabulary.of),
        start=_start(manifest),
        prefix=_prefix(manifest.prefix),
        max_tokens=manifest.max_tokens,
        metrics=_metrics(manifest.metrics, words) if manifest.metrics else "It was not evaluated.\n",
        formats=_formats(manifest, words),
        checked=_checked(manifest),
        use=words.use,
        example=words.example,
        classifies=words.classifies_pairs if manifest.reads_pairs else words.classifies,
        tools=f"sentence-transformers{', transformers or ONNX Runtime' if graphs else ' or transformers'}",
        transformers=_transformers(manifest),
        onnx=_ONNX.format(texts=_texts(manifest), outputs=_outputs(words)) if graphs else "",
    )


def _transformers(manifest: Manifest) -> str:
    """Return the lines that make vectors with transformers alone."""
    name, pooled = _POOLED[manifest.pooling]
    lines = _TRANSFORMERS.format(texts=_texts(manifest), name=name, pooled=pooled)
    if manifest.width < manifest.dimensions:
        lines = f"from safetensors.torch import load_file\n{lines}{_PROJECTION.format(name=name)}"
    return f"{lines}vectors = {name} / {name}.norm(dim=1, keepdim=True)\n"


def _texts(manifest: Manifest) -> str:
    """Return two texts as the encoder reads them, in Python."""
    return json.dumps([manifest.prefix + text for text in ("whole milk", "oat drink")], ensure_ascii=False)


def _outputs(words: CardWords) -> str:
    """Return the start of the line that runs a graph."""
    if words.classifies:
        return 'vectors, logits = session.run(["sentence_embedding", "logits"]'
    return '(vectors,) = session.run(["sentence_embedding"]'


def _encoder(name: str) -> str:
    """Return an encoder's name; of a folder only the last part, since others have no use for this machine's paths."""
    return Path(name).name if Path(name).is_absolute() else name


def _vocabulary(kept: int, of: int | None) -> str:
    if of is None or kept == of:
        return ""
    return f"Its vocabulary is {kept:,} of the {of:,} tokens of that encoder: those that the catalogue needs. "


def _start(manifest: Manifest) -> str:
    lost = manifest.encoder.unlike
    return f"It started without {lost}, which DistilBERT does not have. " if lost else ""


def _prefix(prefix: str) -> str:
    if not prefix:
        return ""
    return f"Every text stands behind {markdown_code(prefix)}; scenetune and sentence-transformers put it there. "


def _formats(manifest: Manifest, words: CardWords) -> str:
    names: dict[Format, str] = {
        "hf": f"`model.safetensors` ({manifest.precision}), for transformers and sentence-transformers",
        "onnx": "`onnx/model.onnx` (fp32), for ONNX Runtime",
        "onnx-int8": "`onnx/model_int8.onnx` (8-bit weights), for ONNX Runtime",
        "triton": "`triton/` (fp32), a model repository of Triton",
        "pt2": "`torch/model.pt2` (fp32), for torch.export",
    }
    lines = []
    for name, found in manifest.formats.items():
        measured = []
        if found.cosine is not None:
            measured.append(f"least cosine to the student's vectors {found.cosine:.6f}")
        if found.agreement is not None:
            measured.append(f"{words.answers} {found.agreement:.1%}")
        lines.append(f"- {'; '.join([names[name], *measured])}.")
    small = manifest.formats.get("onnx-int8")
    if small is not None and small.texts_per_second is not None:
        rates = small.texts_per_second
        lines += [
            "",
            f"In validation {manifest.definition.metric} is {small.recall:.4f} with 8-bit weights and "
            f"{small.recall_fp32:.4f} in fp32. On the CPU that wrote this folder: {rates['onnx-int8']:,.0f} texts "
            f"per second with 8-bit weights, {rates['onnx']:,.0f} with the fp32 graph, {rates['torch']:,.0f} with "
            "torch.",
        ]
    return "\n".join(lines) + "\n"


def _checked(manifest: Manifest) -> str:
    """Return how it was checked that the folder opens."""
    lines = ["Before this folder appeared, a fresh process opened it and compared what it got with the student:", ""]
    lines += [f"- {program}: {how}." for program, how in manifest.checks.items()]
    return "\n".join(lines)


def _metrics(metrics: StudyEvaluation, words: CardWords) -> str:
    k = metrics.metric.rpartition("@")[2]
    titles = [metrics.metric, "95 % interval", *(title.format(k=k) for title in words.metrics.values())]
    lines = [
        f"On {words.scored.format(scenes=metrics.scenes, shots=metrics.shots)}",
        "",
        f"| | {' | '.join(titles)} |",
        f"|---|{'---|' * len(titles)}",
    ]
    for name, system in sorted(metrics.systems.items(), key=lambda item: item[1].recall.mean):
        recall, others = system.recall, [system.metrics.get(name) for name in words.metrics]
        means = " | ".join("–" if each is None else f"{each.mean:.3f}" for each in others)
        lines.append(f"| {markdown_text(name)} | {recall.mean:.3f} | {recall.low:.3f} – {recall.high:.3f} | {means} |")
    return "\n".join(lines) + "\n" + retention_sentence(metrics.retention)


def retention_sentence(retention: Retention) -> str:
    """Return the paragraph on what the student keeps of its teacher; "" where that is not known."""
    if retention.recall is None:
        return ""
    kept = f"\nThe student keeps {retention.recall:.1%} of the best teacher's recall"
    baseline = f"the best baseline that reads no text ({retention.baseline})"
    if retention.lift is not None:
        return f"{kept} and {retention.lift:.1%} of its lift over {baseline}.\n"
    lift = retention.teacher_lift
    said = "below zero" if lift.high < 0 else "not distinguishable from zero"
    return (
        f"{kept}. The teacher's lift over {baseline} is {said}: {lift.mean:+.3f} [{lift.low:+.3f}, {lift.high:+.3f}].\n"
    )
