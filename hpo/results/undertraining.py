"""Tells whether a student was trained for too few steps, from its recalls at the rungs and the texts that it read."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from distill.evaluation import StudentProgress
from studies.evaluation.intervals import bootstrap, bootstrap_ratio

Recalls = Mapping[str, float]
# Published students of sentence encoders keep 95 to 99 % of their teachers' scores.
KEPT = 0.95


def student_progress(
    recalls: Mapping[int, Recalls], teacher: Recalls, baseline: Recalls, texts_read: int, texts: int
) -> StudentProgress | None:
    """Return how far a student's training has come; None where the teacher has no recall to compare with.

    A student is undertrained if the interval of what it keeps of the teacher's lift lies below `KEPT`, and either its
    recall has surely risen since the first rung or it has not read as many texts as there are. One that keeps enough
    needs no more steps, however few it had; one that has stopped improving needs something else.

    Args:
        recalls: By step of each rung, the student's recall per validation scene.
        teacher: The best teacher's recall in these scenes.
        baseline: The same of the best baseline that reads no text.
        texts_read: Texts that the steps on texts read, repeats counted.
        texts: Texts that they could read.
    """
    first, last = min(recalls), max(recalls)
    compared = (recalls[first], recalls[last], teacher, baseline)
    scenes = sorted(set(compared[0]).intersection(*compared[1:]))
    before, after, best, floor = (np.array([values[name] for name in scenes]) for values in compared)
    if len(scenes) < 2 or (of_recall := bootstrap_ratio(after, best)) is None:
        return None
    of_lift, gained = bootstrap_ratio(after - floor, best - floor), bootstrap(after - before)
    kept = of_lift or of_recall
    return StudentProgress(
        texts=texts,
        texts_read=texts_read,
        measure="lift" if of_lift else "recall",
        kept=kept,
        first_step=first,
        gained=gained,
        undertrained=kept.high < KEPT and (gained.low > 0 or texts_read < texts),
    )
