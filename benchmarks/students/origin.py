"""Where the students of the benchmarks come from, as their exports say it."""

from __future__ import annotations

from distill.export.manifest import EncoderReference, Origin
from studies.training.problem import Problem


def origin_of(problem: Problem, study: str) -> Origin:
    """Describe a student that no study made.

    Args:
        problem: Whose data and encoder the student has.
        study: The name that the export shows.
    """
    encoder = problem.encoder
    return Origin(
        study=study,
        study_id=32 * "0",
        spec=problem.spec.model_dump(mode="json"),
        data_fingerprint=problem.data.fingerprint,
        encoder=EncoderReference(name=encoder.name, sha256=encoder.identity, vocabulary=encoder.config.vocab_size),
    )
