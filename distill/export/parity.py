"""Embeds texts with an export and without scenetune: `python parity.py EXPORT REQUEST.json OUT`.

`distill/export/checks.py` runs this file in a fresh process before an export becomes visible. It imports none of our
modules, as users of the folder may not have them. The request holds `texts`, `formats`, the `prefix` of
every text, and whether the folder `classifies` by itself; the output is a safetensors file with the (n, D) vectors of
each format, by its name, and those of sentence-transformers where that is installed. Where the folder classifies,
(n, N) probabilities are added as "FORMAT probabilities": of transformers' pipeline, and of the graphs' logits.
"""

from __future__ import annotations

import importlib.util
import itertools
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch.nn.functional import normalize
from transformers import AutoModel, AutoTokenizer, pipeline

# One text, or a pair of two.
Text = str | list[str]
Opener = Callable[[Path, list[Text]], torch.Tensor]
# Sizes of the batches, in turn: neither the size of a batch nor its longest text may change a vector.
SIZES = (1, 2, 3, 5, 8, 32)


def batches(texts: list[Text]) -> Iterator[list[Text]]:
    """Yield the texts in order, in batches of several sizes."""
    rest = iter(texts)
    for size in itertools.cycle(SIZES):
        if not (batch := list(itertools.islice(rest, size))):
            return
        yield batch


@torch.inference_mode()
def with_transformers(folder: Path, texts: list[Text]) -> torch.Tensor:
    """Return the pooled last hidden states, projected where the encoder is narrow, as the model card shows."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder).eval()
    dense = folder / "2_Dense" / "model.safetensors"
    projection = load_file(dense)["linear.weight"].float() if dense.is_file() else None
    pooling = json.loads((folder / "1_Pooling" / "config.json").read_text(encoding="utf-8"))
    vectors = []
    for batch in batches(texts):
        inputs = tokenizer(*columns(batch), padding=True, truncation=True, return_tensors="pt")
        hidden, mask = model(**inputs).last_hidden_state.float(), inputs["attention_mask"][..., None]
        if pooling["pooling_mode_cls_token"]:
            pooled = hidden[:, 0]
        elif pooling["pooling_mode_max_tokens"]:
            pooled = hidden.masked_fill(mask == 0, -torch.inf).amax(1)
        else:
            pooled = (hidden * mask).sum(1) / mask.sum(1)
        vectors.append(normalize(pooled if projection is None else pooled @ projection.T, dim=1))
    return torch.cat(vectors)


def with_sentence_transformers(folder: Path, texts: list[Text]) -> torch.Tensor:
    """Return the vectors of `SentenceTransformer`, from the folder's modules."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(folder), device="cpu")
    vectors = [model.encode(batch, convert_to_tensor=True, show_progress_bar=False).float() for batch in batches(texts)]
    return torch.cat(vectors)


def with_pipeline(folder: Path, texts: list[Text]) -> torch.Tensor:
    """Return the probabilities of transformers' pipeline, in the order of the model's labels."""
    classify = pipeline("text-classification", str(folder), truncation=True, device="cpu")
    labels: Any = classify.model.config.label2id
    probabilities = torch.empty(len(texts), len(labels))
    asked = [{"text": text} if isinstance(text, str) else {"text": text[0], "text_pair": text[1]} for text in texts]
    found: Any = classify(asked, top_k=None, batch_size=SIZES[-1])
    for row, scores in enumerate(found):
        for each in scores:
            probabilities[row, labels[each["label"]]] = each["score"]
    return probabilities


def with_logits(folder: Path, texts: list[Text], graph: str = "onnx/model.onnx") -> torch.Tensor:
    """Return the probabilities of the graph's logits."""
    return with_onnx(folder, texts, graph, "logits").softmax(1)


def with_int8_logits(folder: Path, texts: list[Text]) -> torch.Tensor:
    """Return the probabilities of the logits of the graph with 8-bit weights."""
    return with_logits(folder, texts, "onnx/model_int8.onnx")


def with_onnx(
    folder: Path, texts: list[Text], graph: str = "onnx/model.onnx", output: str = "sentence_embedding"
) -> torch.Tensor:
    """Return the graph's sentence vectors, or another of its outputs."""
    import onnxruntime

    tokenizer = AutoTokenizer.from_pretrained(folder)
    session = onnxruntime.InferenceSession(folder / graph, providers=["CPUExecutionProvider"])
    vectors = []
    for batch in batches(texts):
        inputs = dict(tokenizer(*columns(batch), padding=True, truncation=True, return_tensors="np"))
        (found,) = session.run([output], inputs)
        vectors.append(torch.from_numpy(found))
    return torch.cat(vectors)


def with_int8(folder: Path, texts: list[Text]) -> torch.Tensor:
    """Return the sentence vectors of the graph with 8-bit weights."""
    return with_onnx(folder, texts, "onnx/model_int8.onnx")


def with_torch_package(folder: Path, texts: list[Text], output: str = "sentence_embedding") -> torch.Tensor:
    """Return the sentence vectors of the package of torch.export, or another of its outputs."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    encoder = torch.export.load(folder / "torch/model.pt2").module()
    vectors = []
    for batch in batches(texts):
        inputs = tokenizer(*columns(batch), padding=True, truncation=True, return_tensors="pt")
        with torch.inference_mode():
            vectors.append(encoder(inputs["input_ids"], inputs["attention_mask"])[output])
    return torch.cat(vectors)


def with_torch_logits(folder: Path, texts: list[Text]) -> torch.Tensor:
    """Return the probabilities of the package's logits."""
    return with_torch_package(folder, texts, "logits").softmax(1)


def columns(batch: list[Text]) -> list[list[Text]]:
    """Return what a tokenizer takes: the texts, or the first and the second ones of pairs."""
    return [list(part) for part in zip(*batch, strict=True)] if isinstance(batch[0], list) else [batch]


def prefixed(text: Text, prefix: str) -> Text:
    """Return a text behind a prefix; of a pair, its first text."""
    return prefix + text if isinstance(text, str) else [prefix + text[0], *text[1:]]


def in_kinds(opener: Opener, export: Path, texts: list[Text]) -> torch.Tensor:
    """Return the vectors in the order of the texts, single ones and pairs encoded apart: no tokenizer mixes them."""
    kinds = [[row for row, text in enumerate(texts) if isinstance(text, kind)] for kind in (str, list)]
    found = [opener(export, [texts[row] for row in rows]) for rows in kinds if rows]
    return torch.cat(found)[torch.tensor(kinds[0] + kinds[1]).argsort()]


OPENERS: dict[str, Opener] = {
    "hf": with_transformers,
    "onnx": with_onnx,
    "onnx-int8": with_int8,
    "pt2": with_torch_package,
}
CLASSIFIERS: dict[str, Opener] = {
    "hf": with_pipeline,
    "onnx": with_logits,
    "onnx-int8": with_int8_logits,
    "pt2": with_torch_logits,
}


def main(export: Path, request: Path, out: Path) -> None:
    """Write the vectors that a request names."""
    wanted = json.loads(request.read_text(encoding="utf-8"))
    texts = [prefixed(text, wanted["prefix"]) for text in wanted["texts"]]
    vectors = {name: in_kinds(OPENERS[name], export, texts) for name in wanted["formats"]}
    if importlib.util.find_spec("sentence_transformers") is not None:
        # It puts the prefix before every text itself: the default prompt in its files.
        vectors["sentence-transformers"] = in_kinds(with_sentence_transformers, export, wanted["texts"])
    if wanted["classifies"]:
        for name in wanted["formats"]:
            vectors[f"{name} probabilities"] = in_kinds(CLASSIFIERS[name], export, texts)
    save_file(vectors, out)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
