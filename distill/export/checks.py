"""Checks an export before it becomes visible: a fresh process must get the student's vectors and answers from it.

`check` compares every format, opened in a fresh process without a network, with the student in this one, and measures
recall and speed with 8-bit weights. What it measures goes into the manifest.
"""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from distill.export.fresh_process import Asked, run_scripts
from distill.export.manifest import GRAPHS, FormatFigures, Manifest
from distill.export.stacks.tei import broken_rules
from distill.export.task_export import TaskExport, spread
from distill.objective import evaluate
from distill.serving.onnx_tower import OnnxTower, through
from distill.student import Student
from storage.errors import ScenetuneError
from studies.config.definition import Format
from studies.evaluation.evaluate import encode_items
from studies.model.device import full_precision
from studies.model.encoder import tokenize
from studies.progress import SILENT, Progress
from studies.text_form import split_pair
from studies.training.problem import Problem

# The least cosine of any text's vector to the student's own, by the precision of the weights. Measured on MiniLM and
# small random encoders: 1 - 1e-13, 1 - 5e-7, 1 - 6e-5, and 0.97 to 0.9999 with 8-bit weights, which recall checks.
COSINE = {"fp32": 0.999999, "fp16": 0.9999, "bf16": 0.999, "int8": 0.9}
# Texts of several lengths, so that batches are padded; one is longer than any limit, one has letters that most
# vocabularies lack.
PROBES = ("milk", "whole milk, 1 l, own brand", "crème brûlée 北京", "dark chocolate with hazelnuts " * 200)
# Episodes whose answers are compared.
EPISODES = 3
# The fraction of its recall that a student may lose to 8-bit weights.
MAX_LOSS = 0.01
RATED_TEXTS, ROUNDS = 256, 3


def check(student: Student, draft: Path, manifest: Manifest, task: TaskExport, problem: Problem | None) -> None:
    """Compare a draft with the student; add what was measured to the manifest's formats.

    Args:
        student: What was written.
        draft: The folder, with a manifest, so that it opens.
        manifest: Of `distill.export.description.describe`.
        task: Of the study; says what is compared beside vectors.
        problem: The study's data; without it vectors of a few texts are compared, and no answers.

    Raises:
        ScenetuneError: A fresh process does not open the draft, or gets other vectors or answers; or 8-bit weights cost
            more recall than they may.
    """
    formats = manifest.formats
    episodes = spread(problem.validation, EPISODES) if problem is not None else []
    items = (
        torch.unique(torch.cat([e.items.cpu() for e in episodes])) if episodes else torch.empty(0, dtype=torch.int64)
    )
    texts = [*PROBES, *(problem.data.texts[item] for item in items.tolist())] if problem else list(PROBES)
    ours = _own_vectors(student, texts)
    reporter = problem.reporter if problem is not None else SILENT
    what = f"vectors and {task.answers}" if episodes else "vectors"
    opened = [name for name in formats if name != "triton"]
    reporter.note(f"comparing {what} in a fresh process: {', '.join(opened)}")
    asked = task.asked(problem, episodes) if problem is not None and episodes else None
    found = fresh_process(draft, texts, opened, student.tower.form.knows_classes, student.prefix, asked)
    _check_probabilities(student, task, manifest, ours, found)
    for opener, vectors in found.vectors.items():
        name = cast("Format", "hf" if opener == "sentence-transformers" else opener)
        precision = _stored(manifest, name)
        cosine = _compare_vectors(opener, precision, ours, vectors)
        if opener == "sentence-transformers":
            formats[name].sentence_transformers_cosine = cosine
            continue
        formats[name].cosine = cosine
        if episodes:
            tables = [vectors[len(PROBES) + torch.searchsorted(items, e.items.cpu())] for e in episodes]
            answers = [task.answer(task.scores(student, e, t)) for e, t in zip(episodes, tables, strict=True)]
            formats[name].agreement = _compare_answers(opener, precision, student, task, episodes, answers)
    if problem is not None and episodes:
        served = _compare_answers("served", manifest.precision, student, task, episodes, found.answers)
        formats["hf"].served_agreement = served
        if "onnx-int8" in formats:
            compared, weighed = formats["onnx-int8"].to_json(), measure_int8(student, draft, problem).to_json()
            formats["onnx-int8"] = FormatFigures.model_validate(compared | weighed)
    manifest.checks.update(_programs(draft, opened, found))
    if "triton" in formats:
        manifest.checks["Triton"] = "not run; its encoder is onnx/model.onnx, which ONNX Runtime opened"


def _programs(draft: Path, opened: Sequence[Format], found: Found) -> dict[str, str]:
    """Return how it was checked that programs open a draft."""
    names = {"hf": "transformers", "onnx": "ONNX Runtime", "pt2": "torch.export"}
    checks = dict.fromkeys((program for name, program in names.items() if name in opened), "opened")
    served = {"sentence-transformers": "sentence-transformers" in found.vectors, "scenetune": bool(found.answers)}
    checks |= {name: "opened" if done else "not run" for name, done in served.items()}
    broken = broken_rules(draft)
    rules = f"it breaks rules of its sources: {'; '.join(broken)}" if broken else "by the rules of its sources it fits"
    return checks | {"text-embeddings-inference": f"not run; {rules}"}


def measure_int8(student: Student, draft: Path, problem: Problem) -> FormatFigures:
    """Measure 8-bit weights: recall on all validation episodes, and texts per second on this CPU.

    Raises:
        ScenetuneError: They cost more than `MAX_LOSS` of the recall.
    """
    graphs = {name: draft / path for name, path in GRAPHS.items()}
    problem.reporter.note("measuring what 8-bit weights cost in recall and bring in speed")
    full = evaluate(student, problem, problem.validation, problem.reporter).mean()
    small = evaluate(through(graphs["onnx-int8"], student), problem, problem.validation, problem.reporter).mean()
    if not small >= (1 - MAX_LOSS) * full:
        raise ScenetuneError(
            f"with 8-bit weights {problem.spec.metric} in validation falls from {full:.4f} to "
            f"{small:.4f}, by {1 - small / full:.1%} where at most {MAX_LOSS:.0%} is accepted; nothing was exported: "
            "leave onnx-int8 out, as with --format hf,onnx"
        )
    tokens = student.tower.tokens
    here = copy.deepcopy(student.tower).cpu()
    towers: dict[str, nn.Module] = {name: OnnxTower(path, tokens) for name, path in graphs.items()}
    with problem.reporter.progress("timing its graphs") as progress:
        rates = _rates(towers | {"torch": here}, tokens.lengths, progress)
    return FormatFigures(recall=small, recall_fp32=full, texts_per_second=rates)


class Found(NamedTuple):
    """What a fresh process gets from an export.

    Attributes:
        vectors: (n, D) by format, and by "sentence-transformers" where that is installed, of some texts; before any of
            our modules is imported.
        probabilities: (n, N) by format, where the export classifies by itself; of the same texts, and as early.
        answers: Of our library, for each episode.
    """

    vectors: Mapping[str, Tensor]
    probabilities: Mapping[str, Tensor]
    answers: Sequence[Tensor] = ()


def fresh_process(
    draft: Path,
    texts: Sequence[str],
    formats: Sequence[str],
    classifies: bool = False,
    prefix: str = "",
    asked: Asked | None = None,
) -> Found:
    """Open a draft in a fresh process.

    Args:
        draft: The export.
        texts: The texts.
        formats: Those of the export that are opened.
        classifies: Whether the export classifies by itself.
        prefix: What the encoder wants before every text.
        asked: What our library is asked afterwards.

    Raises:
        ScenetuneError: It could not open the draft.
    """
    parts = [split_pair(text) for text in texts]
    said = [list(each) if len(each) == 2 else each[0] for each in parts]
    request = {"texts": said, "formats": formats, "classifies": classifies, "prefix": prefix}
    first = Asked(Path(__file__).with_name("parity.py"), request)
    tensors, *served = run_scripts(draft, [first] if asked is None else [first, asked])
    probabilities = {name: tensors.pop(f"{name} probabilities") for name in formats if classifies}
    answers = [each[str(number)] for each in served for number in range(len(each))]
    return Found(tensors, probabilities, answers)


def _check_probabilities(student: Student, task: TaskExport, manifest: Manifest, ours: Tensor, found: Found) -> None:
    """Compare the probabilities of an export that classifies by itself with those of the student's (n, D) vectors."""
    for opener, theirs in found.probabilities.items():
        name = cast("Format", opener)
        same = task.same(task.own_probabilities(student, ours), theirs, exact=_stored(manifest, name) == "fp32")
        manifest.formats[name].classifier_agreement = share = float(same.float().mean())
        if _stored(manifest, name) == "fp32" and share < 1:
            raise _different(opener, task)


def _stored(manifest: Manifest, name: Format) -> str:
    """Return the precision of a format's weights."""
    return {"hf": manifest.precision, "onnx-int8": "int8"}.get(name, "fp32")


def _own_vectors(student: Student, texts: Sequence[str]) -> Tensor:
    tokens = tokenize(student.tokenizer, texts, student.max_tokens, prefix=student.prefix)
    with full_precision():
        return encode_items(student.tower.over(tokens), torch.arange(len(texts)), tokens.lengths).cpu()


def _compare_vectors(opener: str, precision: str, ours: Tensor, theirs: Tensor) -> float:
    """Return the least cosine of a text's two vectors."""
    cosine = float(torch.cosine_similarity(ours.double(), theirs.double(), dim=1).min())
    # Written so that NaN fails.
    if not cosine >= COSINE[precision]:
        raise ScenetuneError(
            f"the exported model ({opener}, {precision}) differs from the student in a fresh process: a text's vectors "
            f"have cosine {cosine:.6f}, at least {COSINE[precision]} is accepted; nothing was exported: check the "
            "versions of torch, transformers and onnxruntime"
        )
    return cosine


def _compare_answers(
    opener: str,
    precision: str,
    student: Student,
    task: TaskExport,
    episodes: Sequence[Any],
    answers: Sequence[Tensor],
) -> float:
    """Return how much of some answers is the student's own; in fp32 all of it must be, up to rounding."""
    exact, same = precision == "fp32", []
    for episode, theirs in zip(episodes, answers, strict=True):
        scores = task.scores(student, episode, _own_table(student, episode))
        same.append(task.same(scores, theirs.to(scores.device), exact=exact).float().mean(1))
    if exact and not bool((torch.cat(same) == 1).all()):
        raise _different(opener, task)
    return float(torch.cat(same).mean())


def _different(opener: str, task: TaskExport) -> ScenetuneError:
    return ScenetuneError(
        f"the exported model ({opener}) {task.differs} than the student in a fresh process; nothing was "
        "exported: check the versions of torch, transformers and onnxruntime"
    )


def _own_table(student: Student, episode: Any) -> Tensor:
    with full_precision():
        return encode_items(student.tower, episode.items, student.tower.tokens.lengths)


def _rates(towers: Mapping[str, nn.Module], lengths: Tensor, progress: Progress) -> dict[str, float]:
    """Return texts per second of each, in alternating rounds, so that a busy machine slows all."""
    items = torch.linspace(0, len(lengths) - 1, min(RATED_TEXTS, len(lengths))).long()
    seconds: dict[str, list[float]] = {name: [] for name in towers}
    with full_precision():
        for done in range(1, ROUNDS + 2):
            for name, tower in towers.items():
                started = time.perf_counter()
                encode_items(tower, items, lengths)
                seconds[name].append(time.perf_counter() - started)
            progress(done, ROUNDS + 1)
    return {name: len(items) / statistics.median(each[1:]) for name, each in seconds.items()}  # the first warms up
