"""Tells whether a student was trained for too few steps, from its recalls at the rungs and the texts that it read."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from distill.evaluation import StudentProgress
from studies.evaluation.intervals import bootstrap, bootstrap_ratio

Recalls = Mapping[str, float]
# Published students of sentence encoders keep 95 to 99 % of their teacher.
KEPT = 0.95


def student_progress(
    recalls: Mapping[int, Recalls], teacher: Recalls, texts_read: int, texts: int
) -> StudentProgress | None:
    """Return how far a student's training has come; None where the teacher has no recall to compare with.

    A student is undertrained if the interval of what it keeps of the teacher's recall lies below `KEPT`, and either its
    recall has surely risen since the first rung or it has not read as many texts as there are. One that keeps enough
    needs no more steps, however few it had; one that has stopped to improve needs something else.

    Args:
        recalls: By step of each rung, the student's recall per validation scene.
        teacher: The best teacher's recall in these scenes.
        texts_read: Texts that the steps on texts read, repeats counted.
        texts: Texts that they could read.
    """
    first, last = min(recalls), max(recalls)
    scenes = sorted(recalls[first].keys() & recalls[last].keys() & teacher.keys())
    before, after, best = (
        np.array([values[name] for name in scenes]) for values in (recalls[first], recalls[last], teacher)
    )
    if len(scenes) < 2 or (kept := bootstrap_ratio(after, best)) is None:
        return None
    gained = bootstrap(after - before)
    return StudentProgress(
        texts=texts,
        texts_read=texts_read,
        kept=kept,
        first_step=first,
        gained=gained,
        undertrained=kept.high < KEPT and (gained.low > 0 or texts_read < texts),
    )
