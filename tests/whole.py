"""A whole study in seconds, nothing of it played: searched, distilled, evaluated, exported; of the planted shop."""

from functools import partial
from pathlib import Path

import pytest

import distill.export.writer as exporting
from hpo.export import export
from hpo.job import distil_and_evaluate
from hpo.registry import register
from hpo.search.loop import Search
from hpo.status.console import Console
from storage.database.postgres import Database
from studies.config.spec import StudySpec
from studies.training.objective import run_trial
from studies.training.prepare import prepare
from tests.synthetic import planted_dataset, tiny_encoder, tiny_spec


def whole(database: Database, folder: Path, name: str) -> tuple[StudySpec, Path]:
    """Runs the study; returns it with the folder of its export.

    Args:
        database: of the study.
        folder: for its files.
        name: of the study, and of the export's folder.
    """
    spec = tiny_spec(
        tiny_encoder(folder / "encoder"),
        name=name,
        search={"trials": 12, "sampler": "random", "space": {"learner": ["protonet", "anil"], "trainable_layers": 0}},
        pruner={"eta": 2, "keep": 0.4, "rungs": [1, 2, 4]},
        finalists={"count": 2, "draws": 1},
        distill={"trials": 2, "embed_steps": 4, "rank_steps": 2, "space": {"layers": [1, 2]}},
    )
    data = planted_dataset()
    problem = prepare(spec, folder / "cache", data=data)
    spec = register(database, spec, data.fingerprint)
    scenes = {data.scenes[episode.scene] for episode in problem.validation}
    for _ in Search(database, spec, scenes, partial(run_trial, problem)).run_all():
        pass
    distil_and_evaluate(database, spec, problem, Console())
    with pytest.MonkeyPatch.context() as patch:
        # Parity in a fresh process is slow, and shown elsewhere.
        patch.setattr(exporting, "_check_parity", lambda *_: None)
        return spec, export(database, spec, problem, folder / name, Console())
