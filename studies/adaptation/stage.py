"""Adapts the encoder of a study once: all its trials and workers, and later studies that ask for the same, share it.

The adapted weights are found by a digest of all that they are a function of: the encoder, what may be read, the
settings. They are a checkpoint in the home's artifacts, and so in the store that machines share (`HPO_ARTIFACTS`);
another one there holds what an interrupted training resumes from.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from storage.errors import InputError
from storage.files import checkpoints, store
from storage.files.atomic import discard
from storage.home import home
from studies.adaptation.corpus import Corpus
from studies.adaptation.registry import OBJECTIVES, Reads
from studies.adaptation.section import AdaptSection
from studies.adaptation.trainer import AdaptationTrainer
from studies.config.definition import TeacherSection
from studies.evaluation.figures import AdaptationFacts
from studies.model.encoder import Encoder
from studies.progress import SILENT, ProgressReporter
from studies.training.out_of_memory import recognised
from studies.training.outer_loop import Diverged

# Increase it whenever equal settings give other weights.
FORMAT = 1
# Between checkpoints: what a kill can lose.
SECONDS = 30.0


def adapt(encoder: Encoder, corpus: Corpus, teacher: TeacherSection, reporter: ProgressReporter = SILENT) -> Encoder:
    """Return a study's encoder as `[teacher.adapt]` says, or as it is without the table; trained unless it was already.

    Safe with several processes: one trains while the others wait. An interruption loses at most half a minute.

    Args:
        encoder: The pretrained encoder.
        corpus: What may be read.
        teacher: `[teacher]`.
        reporter: Receives the progress.

    Raises:
        InputError: There is nothing to read, or training diverges.
        OutOfMemory: There is too little memory.
        ArtifactsUnavailable: A checkpoint cannot be written or uploaded.
    """
    if (section := teacher.adapt) is None:
        return encoder
    for name in section.objectives:
        OBJECTIVES[name].load().check(corpus, section)
    folder = home() / "artifacts" / "encoders" / _key(encoder, corpus, section, teacher)
    result = folder / "adapted"
    folder.mkdir(parents=True, exist_ok=True)
    with _alone(folder, reporter):
        stored = checkpoints.newest_valid(result)
        if stored is None:
            _train(encoder, corpus, section, teacher, folder, reporter)
            stored = checkpoints.last(result)
    facts = AdaptationFacts.model_validate(stored[1])
    manifest = json.loads((checkpoints.last_folder(result) / checkpoints.MANIFEST).read_bytes())
    return replace(
        encoder,
        weights=manifest["sha256"],
        name=f"{encoder.name}, adapted",
        read=partial(_read, encoder, result),
        adaptation=facts,
    )


def _key(encoder: Encoder, corpus: Corpus, section: AdaptSection, teacher: TeacherSection) -> str:
    """Return the digest of everything that the adapted weights are a function of."""
    reads: set[Reads] = {OBJECTIVES[name].reads for name in section.objectives}
    told = {
        "format": FORMAT,
        "encoder": encoder.identity,
        "vocabulary": sorted(encoder.tokenizer.get_vocab().items()),
        "max_tokens": teacher.max_tokens,
        "corpus": corpus.digest(reads),
        "settings": section.model_dump(mode="json"),
    }
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:24]


@contextmanager
def _alone(folder: Path, reporter: ProgressReporter) -> Iterator[None]:
    """Hold a folder's lock within the block; say so if another process has it."""
    lock = FileLock(folder.with_suffix(".lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        reporter.note("another process adapts the encoder; waiting for it")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _train(
    encoder: Encoder,
    corpus: Corpus,
    section: AdaptSection,
    teacher: TeacherSection,
    folder: Path,
    reporter: ProgressReporter,
) -> None:
    """Train from the newest checkpoint on, and write the adapted weights; the checkpoint is removed then."""
    training = folder / "training"
    with reporter.progress("splitting texts into tokens") as progress:
        trainer = AdaptationTrainer(encoder, corpus, section, teacher, progress)
    seconds, started = 0.0, time.monotonic()
    if (stored := checkpoints.newest_valid(training)) is not None:
        trainer.restore(*stored)
        seconds = float(stored[1]["seconds"])

    def spent() -> dict[str, float]:
        return {"seconds": seconds + time.monotonic() - started}

    with reporter.progress("adapting the encoder") as progress, recognised(_OUT_OF_MEMORY):
        progress(trainer.step, section.steps)
        saved = time.monotonic()
        while trainer.step < section.steps:
            _step(trainer)
            progress(trainer.step, section.steps)
            if time.monotonic() - saved >= SECONDS:
                tensors, metadata = trainer.state()
                checkpoints.save(training, trainer.step, tensors, metadata | spent())
                saved = time.monotonic()
    facts = _facts(encoder, corpus, section, trainer, **spent())
    checkpoints.save(folder / "adapted", section.steps, trainer.weights(), facts.to_json())
    discard(training)
    store.remove(training)


_OUT_OF_MEMORY = "adapting the encoder ran out of memory: lower teacher.adapt.batch_size"


def _step(trainer: AdaptationTrainer) -> None:
    try:
        trainer.train_to(trainer.step + 1)
    except Diverged as error:
        raise InputError(f"adapting the encoder diverged ({error}): lower teacher.adapt.lr") from error


def _facts(
    encoder: Encoder, corpus: Corpus, section: AdaptSection, trainer: AdaptationTrainer, seconds: float
) -> AdaptationFacts:
    reads = {OBJECTIVES[name].reads for name in section.objectives}
    rows = {"log": corpus.log, "labels": corpus.labels}
    used = {kind: each.item for kind, each in rows.items() if each is not None and kind in reads}
    read = corpus.items if "texts" in reads else np.unique(np.concatenate(list(used.values())))
    return AdaptationFacts(
        encoder=encoder.name,
        sha256=encoder.identity,
        objectives=tuple(section.objectives),
        steps=section.steps,
        texts=len(read),
        interactions=len(used.get("log", ())),
        labelled=len(used.get("labels", ())),
        losses=trainer.mean_losses(),
        seconds=seconds,
    )


def _read(encoder: Encoder, result: Path) -> Any:
    """Return the adapted model, in evaluation mode."""
    model = encoder.read()
    tensors, _ = checkpoints.last(result)
    model.load_state_dict(tensors)
    model.requires_grad_(False).train(False)
    return model
