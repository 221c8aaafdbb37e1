"""What one distillation trial does: train a student, reporting validation recall and measured cost on the way.

The counterpart of `studies/objective.py`: `Distillation` asks the teachers once per process, `run_trial` is called
per configuration, and the caller's `report` decides what a report is worth.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from distill.hyperparameters import StudentHyperparameters, suggest
from distill.student import Student, assemble, init_student, student_config
from distill.targets import Teacher, compute_targets
from distill.trainer import Distiller, rank_episodes
from storage import checkpoints
from storage.errors import InputError
from studies.device import device, full_precision
from studies.embeddings import Progress
from studies.episodes import Episode
from studies.evaluation import Adapted, ItemVectors, RunWriter
from studies.evaluation import evaluate as evaluate_system
from studies.hyperparameters import Hyperparameters
from studies.metrics import Evaluation
from studies.objective import Problem
from studies.out_of_memory import recognised
from studies.recommender import Head
from studies.training import Diverged, load_weights

# Told of (step, validation recall@K, seconds so far); raises to stop the trial.
Report = Callable[[int, float, float], None]


class Distillation:
    """All that the distillation trials of a study share.

    Args:
        problem: the study's data.
        teachers: the winners, in any order; the best by validation recall gives layers, head and inner loop.
        progress: called with (training episodes asked about, in all).

    Raises:
        InputError: no teachers.
    """

    def __init__(self, problem: Problem, teachers: Sequence[Teacher], progress: Progress | None = None) -> None:
        if not teachers:
            raise InputError("the distillation got no teachers; it needs at least one finished trial: run the search")
        self.problem = problem
        self.teachers = sorted(teachers, key=lambda teacher: (-teacher.recall, teacher.trial))
        episodes = rank_episodes(problem.spec.distill, len(problem.train))
        self.targets = compute_targets(problem, self.teachers, episodes, progress)

    def run_trial(
        self,
        hyperparameters: StudentHyperparameters,
        folder: Path,
        report: Report,
        progress: Callable[[int], None] | None = None,
    ) -> float:
        """Distils one student and returns its validation recall, NaN where training diverged.

        It is evaluated, saved, then reported: after embedding matching, and half-way through and at the end of
        ranking. Where `folder` already holds a checkpoint, the trial goes on from it.

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
        distiller = Distiller(student, self.targets, self.problem.train, section)
        spent, recall = 0.0, float("nan")
        if stored := checkpoints.newest_valid(folder, str(device())):
            tensors, metadata = stored
            distiller.restore(tensors, metadata["step"])
            spent, recall = metadata["cost_seconds"], metadata["recall"]
        for step in sorted({section.embed_steps + part * section.rank_steps // 2 for part in range(3)}):
            if step <= distiller.step:
                continue
            started = time.perf_counter()
            try:
                with recognised("distilling ran out of memory: lower distill.layers, or run fewer workers"):
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
        problem, best = self.problem, self.teachers[0].learner
        model = init_student(problem.encoder, best.model.tower, problem.spec.distill.layers, values.init)
        head = copy.deepcopy(best.model.head)
        max_tokens = problem.spec.teacher.max_tokens
        return assemble(model, head, problem.tokens, max_tokens, best.hyperparameters, values)

    def _save(self, distiller: Distiller, folder: Path, recall: float, cost_seconds: float) -> None:
        student = distiller.student
        metadata = _architecture(self.problem) | {
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
        InputError: the checkpoint is missing, damaged, or of another architecture.
    """
    from transformers import DistilBertModel

    tensors, metadata = checkpoints.last(folder, str(device()))
    expected = _architecture(problem)
    found = {name: metadata.get(name) for name in expected}
    if found != expected:
        raise InputError(
            f"the checkpoint {folder} holds a student with {found}, this study distils {expected}; "
            "name a folder of this study's, or distil again"
        )
    model = DistilBertModel(student_config(problem.encoder, problem.spec.distill.layers))
    learner = Hyperparameters(**metadata["learner"])
    student = assemble(
        model,
        Head(problem.encoder.width, learned_rates=learner.learned_rates),
        problem.tokens,
        problem.spec.teacher.max_tokens,
        learner,
        StudentHyperparameters(**metadata["hyperparameters"]),
    )
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
    progress: Progress | None = None,
    dump: RunWriter | None = None,
) -> Evaluation:
    """A student's figures on `episodes`, in fp32: they are published, and the export must reproduce them.

    Args:
        student: its tower must hold the tokens of `problem`'s items.
        problem: the study's data.
        episodes: what to score; each distinct item is encoded once.
        progress: called with (episodes done, episodes in all).
        dump: called with each episode and its ranking.
    """
    with full_precision():
        system = Adapted(student.learner, ItemVectors(student.tower, episodes, problem.tokens.lengths))
        return evaluate_system(system, episodes, problem.data.scenes, problem.spec.protocol.k, progress, dump)


def _architecture(problem: Problem) -> dict[str, object]:
    """What decides whether a checkpoint fits."""
    return {"encoder": problem.encoder.identity, "layers": problem.spec.distill.layers}


__all__ = ["Distillation", "Student", "StudentHyperparameters", "Teacher", "evaluate", "load_student", "suggest"]
