"""The encoder of a study: loaded, checked against what trials and students need, adapted, its activations cached."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from storage.errors import InputError
from studies.adaptation.corpus import Corpus
from studies.adaptation.stage import adapt
from studies.config.definition import StudyDefinition
from studies.config.distill_section import DistillSection
from studies.config.search_domains import Range, values_of
from studies.config.search_section import SearchSection
from studies.model import encoder as encoders
from studies.model.bf16_speed import share_choice
from studies.model.encoder import Encoder
from studies.model.pretrained.architectures import unlike
from studies.model.pretrained.vocabulary import tokenizer_state, trimming_refused
from studies.progress import SILENT, ProgressReporter
from studies.training.problem import Problem


def load_encoder(
    spec: StudyDefinition, corpus: Callable[[], Corpus], folder: Path, reporter: ProgressReporter = SILENT
) -> Encoder:
    """Load a study's encoder, check that its trials and students can be built on it, and adapt it if the study says so.

    Args:
        spec: The study.
        corpus: Returns what it may be adapted on.
        folder: Of the caches that all processes share.
        reporter: Receives the progress of adapting.

    Raises:
        InputError: It cannot be loaded, has fewer layers or less width than the study asks for, or cannot be adapted.
    """
    encoder = encoders.load(spec.teacher)
    trainable = trainable_choices(spec.search)
    if max(trainable) > encoder.layers:
        raise InputError(
            f"trainable_layers goes up to {max(trainable)}, but the encoder {encoder.name!r} has {encoder.layers} "
            "layers; lower it in [search.space]"
        )
    _check_student(spec.distill, encoder)
    if spec.teacher.adapt is None:
        return encoder
    share_choice(folder)  # training asks for it
    return adapt(encoder, corpus(), spec.teacher, reporter)


def cache_activations(problem: Problem) -> None:
    """Cache what the trials of a study read of the encoder's frozen layers, unless it is cached already.

    What its students cannot take over is said first.
    """
    for note in student_notes(problem):
        problem.reporter.note(note)
    with problem.reporter.progress("encoding texts") as progress:
        # 0 always: baselines and the student's targets read the frozen encoder's output.
        problem.cache.build({0, *trainable_choices(problem.spec.search)}, progress)


def student_notes(problem: Problem) -> list[str]:
    """Return what a study's students start without of their teacher, or keep of it although they need not."""
    encoder, said = problem.encoder, []
    if lost := unlike(encoder.config):
        said.append(f"students of {encoder.name!r} start without {lost}, which DistilBERT does not have")
    refused = trimming_refused(tokenizer_state(encoder.tokenizer))
    if refused and "catalogue" in values_of(problem.spec.distill.space["vocabulary"]):
        said.append(f"students of {encoder.name!r} keep its whole vocabulary: {refused}")
    return said


def _check_student(section: DistillSection, encoder: Encoder) -> None:
    """Refuse, before anything is searched, students that the encoder cannot have.

    Raises:
        InputError: They are deeper or wider than it, their width is no multiple of its attention heads', or they have
            larger feed-forward networks.
    """
    if (layers := max(values_of(section.space["layers"]))) > encoder.layers:
        raise InputError(
            f"distill.space.layers goes up to {layers}, but the encoder {encoder.name!r} has {encoder.layers} layers; "
            "a student cannot have more layers than its teacher"
        )
    if (units := max(values_of(section.space["feed_forward"]))) > encoder.feed_forward:
        raise InputError(
            f"distill.space.feed_forward goes up to {units}, but the feed-forward networks of {encoder.name!r} have "
            f"{encoder.feed_forward} units; give at most that, or 0 for all of them"
        )
    head = encoder.width // encoder.heads
    for width in values_of(section.space["width"]):
        if width > encoder.width or width % head:
            raise InputError(
                f"distill.space.width = {width}: the encoder {encoder.name!r} is {encoder.width} wide, with attention "
                f"heads of {head}; give a multiple of {head} up to {encoder.width}, or 0 for all of it"
            )


def trainable_choices(search: SearchSection) -> list[int]:
    """Return every number of trainable layers that the search space holds."""
    domain = search.space["trainable_layers"]
    if isinstance(domain, Range):
        return list(range(int(domain.low), int(domain.high) + 1))
    return [int(value) for value in domain] if isinstance(domain, list) else [int(domain)]
