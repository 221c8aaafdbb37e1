"""What one distillation trial does: train a student, reporting validation recall and measured cost on the way.

The counterpart of `studies/training/objective.py`: `Distillation` asks the teachers once, `run_trial` is called per
configuration, and the caller's `report` decides what a report is worth.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path

import torch

from distill.hyperparameters import StudentHyperparameters, Vocabulary
from distill.student import Student, Texts, TokenTower, blank, parameters, start, texts_in
from distill.targets import Teacher, compute_targets
from distill.teacher_states import TeacherStates, needed
from distill.trainer import Distiller, rank_episodes
from storage.errors import InputError
from storage.files import checkpoints
from studies.config.hyperparameters import Hyperparameters
from studies.config.search_domains import values_of
from studies.episodes.episode import Episode
from studies.evaluation.evaluate import Adapted, ItemVectors, RunWriter, encode_items
from studies.evaluation.evaluate import evaluate as evaluate_system
from studies.evaluation.metrics import Evaluation
from studies.model.device import device, full_precision
from studies.progress import SILENT, ProgressReporter
from studies.training.out_of_memory import recognised
from studies.training.outer_loop import Diverged, load_weights
from studies.training.problem import Problem

# Told of (step, validation recall@K, seconds so far); raises to stop the trial.
Report = Callable[[int, float, float], None]


class Distillation:
    """All that the distillation trials of a study share.

    Args:
        problem: the study's data.
        teachers: the winners, in any order; the best by validation recall gives layers, head and inner loop.
        folder: where the teachers' answers are kept; nowhere if left out.

    Raises:
        InputError: no teachers.
    """

    def __init__(self, problem: Problem, teachers: Sequence[Teacher], folder: Path | None = None) -> None:
        if not teachers:
            raise InputError("the distillation got no teachers; it needs at least one finished trial: run the search")
        self.problem = problem
        self.teachers = sorted(teachers, key=lambda teacher: (-teacher.recall, teacher.trial))
        section = problem.spec.distill
        episodes = rank_episodes(section, len(problem.train))
        self.targets = compute_targets(problem, self.teachers, episodes, folder)
        if max(values_of(section.space["hidden"])) > 0:
            layers = {int(count) for count in values_of(section.space["layers"])}
            with problem.reporter.progress("encoding texts layer by layer") as progress:
                problem.cache.build(needed(problem.encoder.layers, layers, self._trained), progress)
        self._texts = cache(self._read_texts)

    @property
    def _trained(self) -> int:
        """Top layers of the encoder that the best teacher trained."""
        return self.teachers[0].learner.hyperparameters.trainable_layers

    def _read_texts(self, vocabulary: Vocabulary) -> Texts:
        return texts_in(self.problem, vocabulary)

    def run_trial(
        self,
        hyperparameters: StudentHyperparameters,
        folder: Path,
        report: Report,
        progress: Callable[[int], None] | None = None,
    ) -> float:
        """Distils one student and returns its validation recall, NaN where training diverged.

        At each rung of the section it is evaluated, saved, then reported. Where `folder` already holds a checkpoint,
        the trial goes on from it, and its last rung is reported again, in case it was not heard.

        Args:
            hyperparameters: the configuration.
            folder: where the trial's checkpoints live.
            report: told of each evaluation.
            progress: told of the number of steps done, after each.

        Raises:
            OutOfMemory: there is too little memory for this student.
            ArtifactsUnavailable: a checkpoint cannot be written or uploaded.
        """
        section = self.problem.spec.distill
        student = self._start(hyperparameters)
        distiller = Distiller(student, self.targets, self.problem.train, section, self._states(hyperparameters))
        spent, recall = 0.0, float("nan")
        if stored := checkpoints.newest_valid(folder, str(device())):
            tensors, metadata = stored
            distiller.restore(tensors, metadata["step"])
            spent, recall = metadata["cost_seconds"], metadata["recall"]
            report(distiller.step, recall, spent)
        for step in section.rungs:
            if step <= distiller.step:
                continue
            started = time.perf_counter()
            try:
                with recognised("distilling ran out of memory: lower distill.space.batch_size, or run fewer workers"):
                    distiller.train_to(step, progress)
                    recall = evaluate(student, self.problem, self.problem.validation).mean()
            except (Diverged, FloatingPointError):
                report(distiller.step, float("nan"), spent + time.perf_counter() - started)
                return float("nan")
            spent += time.perf_counter() - started
            self._save(distiller, folder, recall, spent)
            report(step, recall, spent)
        return recall

    def _start(self, values: StudentHyperparameters) -> Student:
        texts, max_tokens = self._texts(values.vocabulary), self.problem.spec.teacher.max_tokens
        return start(self.problem.encoder, self.teachers[0].learner, texts, max_tokens, values)

    def _states(self, values: StudentHyperparameters) -> TeacherStates | None:
        if values.hidden == 0:
            return None
        states = TeacherStates(self.problem.cache, self.problem.encoder.layers, values.layers, self._trained)
        return states if states.layers else None  # the teacher trained all that could be compared

    def _save(self, distiller: Distiller, folder: Path, recall: float, cost_seconds: float) -> None:
        student = distiller.student
        metadata = {
            "encoder": self.problem.encoder.identity,
            "step": distiller.step,
            "recall": recall,
            "cost_seconds": cost_seconds,
            "learner": student.learner.hyperparameters.to_dict(),
            "hyperparameters": asdict(student.hyperparameters),
        }
        checkpoints.save(folder, distiller.step, distiller.state(), metadata)


def load_student(problem: Problem, folder: Path) -> Student:
    """The student that a distillation trial left in `folder`: of its last checkpoint, never of an earlier one.

    Raises:
        InputError: the checkpoint is missing, damaged, or of another encoder.
    """
    tensors, metadata = checkpoints.last(folder, str(device()))
    if metadata.get("encoder") != problem.encoder.identity:
        raise InputError(
            f"the checkpoint {folder} holds a student of another encoder ({str(metadata.get('encoder'))[:12]}, this "
            f"study's is {problem.encoder.identity[:12]}); name a folder of this study's, or distil again"
        )
    learner, values = Hyperparameters(**metadata["learner"]), StudentHyperparameters(**metadata["hyperparameters"])
    max_tokens = problem.spec.teacher.max_tokens
    student = blank(problem.encoder, learner, texts_in(problem, values.vocabulary), max_tokens, values)
    try:
        load_weights(student.model, tensors)
    except (KeyError, RuntimeError) as error:
        raise InputError(
            f"the checkpoint {folder} does not fit this study's student ({error}); it was written by another "
            "version: distil again"
        ) from error
    return student


def evaluate(
    student: Student,
    problem: Problem,
    episodes: Sequence[Episode],
    reporter: ProgressReporter = SILENT,
    dump: RunWriter | None = None,
) -> Evaluation:
    """A student's figures on `episodes`, in fp32: they are published, and the export must reproduce them.

    Args:
        student: its tower must hold the tokens of `problem`'s items.
        problem: the study's data.
        episodes: what to score; each distinct item is encoded once.
        reporter: told of texts encoded and of episodes scored.
        dump: called with each episode and its ranking.
    """
    with full_precision():
        with reporter.progress("encoding texts with the student") as progress:
            vectors = ItemVectors(student.tower, episodes, problem.tokens.lengths, progress)
        system, names = Adapted(student.learner, vectors), problem.data.scenes
        with reporter.progress("scoring episodes") as progress:
            return evaluate_system(system, episodes, names, problem.spec.protocol.k, progress, dump)


def size(problem: Problem, student: Student) -> float:
    """Parameters of the student's encoder over those of the teacher's."""
    return parameters(student.tower) / parameters(problem.encoder.model)


def latency(problem: Problem, student: Student, texts: int = 256, rounds: int = 5) -> float:
    """Time that the student's encoder takes over the teacher's for the same texts: the median of paired rounds.

    Args:
        problem: the study's data.
        student: its tower must hold the tokens of `problem`'s items.
        texts: spread evenly over the catalogue.
        rounds: one after the other, each encoder once in each, so that a busy machine slows both.
    """
    towers = (student.tower, TokenTower(problem.encoder.model, problem.tokens).to(device()))
    items = torch.linspace(0, len(problem.tokens) - 1, min(texts, len(problem.tokens))).long()
    ratios = []
    with problem.reporter.progress("timing the student beside its teacher") as progress:
        for done in range(1, rounds + 2):
            ours, theirs = (_seconds(tower, items) for tower in towers)
            ratios.append(ours / theirs)
            progress(done, rounds + 1)
    return statistics.median(ratios[1:])  # the first round warms up


def _seconds(tower: TokenTower, items: torch.Tensor) -> float:
    started = time.perf_counter()
    encode_items(tower, items, tower.tokens.lengths)
    if device().type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


__all__ = [
    "Distillation",
    "Student",
    "StudentHyperparameters",
    "Teacher",
    "evaluate",
    "latency",
    "load_student",
    "size",
]
