"""What must not be imported on the way to what."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("modules", "banned"),
    [
        (
            "storage.errors storage.home storage.database.embedded",
            "torch optuna sqlalchemy alembic psycopg2",
        ),
        ("storage.database.postgres storage.database.records", "torch optuna"),
        # A machine that trains, distils or serves needs neither a database nor a reader of tables.
        (
            "studies.training.objective distill.objective distill.inference studies.classification.sampling.sampler "
            "studies.classification.sampling.audit studies.classification.scoring.baselines",
            "polars pyarrow sqlalchemy psycopg2 optuna alembic rich",
        ),
    ],
)
def test_import_stays_light(modules: str, banned: str) -> None:
    """A second of importing before `hpo --help` prints anything would be noticed only by users."""
    code = f"import sys, {modules.replace(' ', ', ')}; print(set({banned.split()!r}) & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
