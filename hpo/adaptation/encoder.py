"""`hpo adapt`: the shop's own training of the encoder, what it changes, and its folder.

`hpo run` and `hpo launch` do the same training when they prepare a study, unless it is done already.
"""

from __future__ import annotations

from pathlib import Path

from distill.export.layout import write_encoder_folder
from hpo.results.outcome import AdaptResult
from hpo.results.task_stages import STAGES
from hpo.status.console import Console
from storage.errors import InputError
from storage.files.atomic import atomic_folder
from storage.files.outputs import check_place
from storage.files.store import check_store
from storage.home import cache_folder
from studies.config.spec import StudySpec
from studies.evaluation.intervals import bootstrap
from studies.evaluation.metrics import Evaluation, compare
from studies.model.device import full_precision
from studies.training.prepare import prepare
from studies.training.problem import Problem


def adapt_encoder(spec: StudySpec, console: Console, out: Path | None = None) -> AdaptResult:
    """Adapt a study's encoder, unless that is done already, and compare it with the pretrained one on validation.

    Args:
        spec: The study file, with `[teacher.adapt]`; it need not have been launched.
        console: For progress.
        out: Where to write the encoder as a sentence-transformers folder; must not exist.

    Raises:
        InputError: The study file has no `[teacher.adapt]`, the encoder cannot be adapted, or the folder cannot be
            written.
    """
    if spec.teacher.adapt is None:
        raise InputError(
            f"the study file of {spec.name!r} has no table [teacher.adapt], which says what to train the encoder "
            "with; docs/study-file.md has its keys, and none is required"
        )
    if out is not None:
        if out.exists():
            raise InputError(f"{out} exists already: name another folder, or remove it first")
        check_place(out, "name another folder with --out")
    check_store()
    problem = prepare(spec, cache_folder(), reporter=console)
    adaptation = problem.encoder.adaptation
    assert adaptation is not None, "the section is there"
    if out is not None:
        with atomic_folder(out) as draft:
            write_encoder_folder(problem.encoder, spec.teacher.max_tokens, draft)
    general = prepare(spec.with_pretrained_encoder(), cache_folder(), reporter=console, data=problem.data)
    name = STAGES[spec.task].frozen
    before, after = (_score(each, name) for each in (general, problem))
    return AdaptResult(
        study=spec.name,
        task=spec.task,
        metric=spec.metric,
        adaptation=adaptation,
        sha256=problem.encoder.identity,
        baseline=name,
        before=bootstrap(before.values()),
        after=bootstrap(after.values()),
        gain=compare(after, before),
        folder=None if out is None else str(out),
    )


def _score(problem: Problem, baseline: str) -> Evaluation:
    with full_precision():
        return problem.score(problem.baselines("validation")[baseline], problem.validation)
