"""Builds the problem of a classification study: of new classes, or of known ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from studies.adaptation.corpus import Corpus, Labels
from studies.classification.data.dataset import LabelledTexts
from studies.classification.definition import ClassificationDefinition
from studies.classification.known.problem import KnownClassesProblem
from studies.classification.plan import Plan, plan
from studies.classification.problem import ClassificationProblem
from studies.classification.scenes.problem import KnownScenesProblem
from studies.episodes.audit import refuse_leaks
from studies.progress import SILENT, ProgressReporter
from studies.training.encoder_setup import cache_activations, load_encoder


def build_problem(
    spec: ClassificationDefinition, data: LabelledTexts, cache: Path, *, reporter: ProgressReporter = SILENT
) -> ClassificationProblem:
    """Read or adapt a study's encoder, and cache the activations of its frozen layers unless they are cached already.

    Args:
        spec: The study.
        data: Its data.
        cache: Folder of the caches that all processes share.
        reporter: Receives the progress of long steps, now and whenever the problem takes long.

    Raises:
        InputError: Data, protocol or encoder cannot give a meaningful study.
    """
    planned = plan(data, spec.protocol)
    refuse_leaks(planned.audit())
    for note in planned.notes:
        reporter.note(f"warning: {note}")
    encoder = load_encoder(spec, lambda: labelled_corpus(planned), cache, reporter)
    problem = _kind(spec)(spec, data, planned, encoder, cache, reporter)
    cache_activations(problem)
    return problem


def _kind(spec: ClassificationDefinition) -> type[ClassificationProblem]:
    if spec.protocol.scenes:
        return KnownScenesProblem
    return KnownClassesProblem if spec.protocol.known else ClassificationProblem


def labelled_corpus(planned: Plan) -> Corpus:
    """Return what training may see of labelled texts: those that students may read, and the labels of training."""
    data, items = planned.data, planned.readable()
    # A text has one label, whatever scenes it is in.
    rows = planned.rows("train")[np.unique(data.text[planned.rows("train")], return_index=True)[1]]
    labels = Labels(data.text[rows], data.label[rows], data.group[rows])
    return Corpus(tuple(data.texts[item] for item in items.tolist()), items, labels=labels)
